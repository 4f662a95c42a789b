//! The jobs that a lane is judging, which take turns.
//!
//! A batch holds one response of each tenant in turn until it is full, by count or by tokens, and of a tenant's jobs one of each
//! in turn. So a caller with one response waits for one batch and not for another's four thousand, nor for another tenant's many
//! jobs, and short responses of many callers still fill a batch. Jobs of another sitting than the first one's wait for a batch of
//! theirs: one is judged by one model.

use std::collections::VecDeque;

use policy::engine::Tenant;

use super::{Outcome, ScoreJob, ScoreRequest, Sitting};
use crate::score::ScoreError;

/// How much one batch holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimits {
    /// Responses, at least 1.
    pub(super) responses: usize,
    /// Tokens, prompts included; a single longer response makes a batch of its own.
    pub(super) tokens: usize,
}

/// A job with what is already known about it.
struct Open {
    number: u64,
    job: ScoreJob,
    outcomes: Vec<Option<Outcome>>,
    /// Responses that were in a batch already.
    n_taken: usize,
    n_settled: usize,
}

/// One response of a batch: of which job, and where in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    number: u64,
    index: usize,
}

/// Tenants in the order of their next turn.
#[derive(Default)]
pub(super) struct Turns {
    rings: VecDeque<Ring>,
    n_admitted: u64,
}

/// The jobs of one tenant in the order of their next turn, never none.
struct Ring {
    tenant: Tenant,
    open: VecDeque<Open>,
}

impl Ring {
    /// The next job with a response that is in no batch yet and is judged by this sitting, where that is settled.
    fn next(&mut self, sitting: Option<&Sitting>) -> Option<&mut Open> {
        let at = self.open.iter().position(|open| open.has_next(sitting))?;
        self.open.rotate_left(at);
        self.open.front_mut()
    }
}

impl Turns {
    /// Whether nothing is being judged.
    pub(super) fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }

    /// A tenant's jobs that are being judged.
    pub(super) fn len_of(&self, tenant: Tenant) -> usize {
        self.rings.iter().find(|ring| ring.tenant == tenant).map_or(0, |ring| ring.open.len())
    }

    /// Takes a job; it gets its turn after those that are here. An empty one is answered at once.
    pub(super) fn admit(&mut self, job: ScoreJob) {
        if job.items.is_empty() {
            return (job.reply)(Vec::new());
        }
        self.n_admitted += 1;
        let (tenant, outcomes) = (job.tenant, vec![None; job.items.len()]);
        let open = Open { number: self.n_admitted, job, outcomes, n_taken: 0, n_settled: 0 };
        match self.rings.iter_mut().find(|ring| ring.tenant == tenant) {
            Some(ring) => ring.open.push_back(open),
            None => self.rings.push_back(Ring { tenant, open: [open].into() }),
        }
    }

    /// Lets go of jobs whose caller has left, unanswered. How many responses were thus not judged.
    pub(super) fn drop_abandoned(&mut self) -> usize {
        let mut n_dropped = 0;
        let mut is_wanted = |open: &Open| {
            let is_wanted = !open.job.cancel.is_cancelled();
            n_dropped += if is_wanted { 0 } else { open.job.items.len() - open.n_settled };
            is_wanted
        };
        self.rings.iter_mut().for_each(|ring| ring.open.retain(&mut is_wanted));
        self.rings.retain(|ring| !ring.open.is_empty());
        n_dropped
    }

    /// The places of the next batch; empty when nothing is open.
    pub(super) fn next_batch(&mut self, limits: BatchLimits) -> Vec<Place> {
        let (mut batch, mut tokens, mut n_passed, mut n_turns) = (Vec::new(), 0, 0, 0);
        let mut sitting: Option<Sitting> = None;
        while batch.len() < limits.responses && n_passed < self.rings.len() {
            let ring = &mut self.rings[0];
            match ring.next(sitting.as_ref()) {
                None => n_passed += 1,
                Some(open) => {
                    let n_tokens = open.job.items[open.n_taken].n_tokens();
                    if !batch.is_empty() && tokens + n_tokens > limits.tokens {
                        break;
                    }
                    tokens += n_tokens;
                    batch.push(Place { number: open.number, index: open.n_taken });
                    open.n_taken += 1;
                    n_passed = 0;
                    sitting.get_or_insert_with(|| open.job.sitting().clone());
                    ring.open.rotate_left(1);
                }
            }
            self.rings.rotate_left(1);
            n_turns += 1;
        }
        // Who begins a batch says whose sitting it is: each in turn, after how many turns ever a batch was full.
        if !self.rings.is_empty() {
            self.rings.rotate_right(n_turns % self.rings.len());
            self.rings.rotate_left(1);
        }
        batch
    }

    /// The response at a place of the batch at hand.
    pub(super) fn item(&self, place: Place) -> &ScoreRequest {
        &self.job(place).items[place.index]
    }

    /// Who judges the batch with this place.
    pub(super) fn sitting(&self, place: Place) -> &Sitting {
        self.job(place).sitting()
    }

    fn job(&self, place: Place) -> &ScoreJob {
        let open = self.rings.iter().flat_map(|ring| &ring.open).find(|open| open.number == place.number);
        &open.expect("a job stays while one of its responses is in a batch").job
    }

    /// Takes what became of a batch and answers every job that is now complete.
    pub(super) fn settle(&mut self, batch: &[Place], outcomes: Vec<Outcome>) {
        for (place, outcome) in batch.iter().zip(outcomes) {
            let mut all = self.rings.iter_mut().flat_map(|ring| &mut ring.open);
            if let Some(open) = all.find(|open| open.number == place.number) {
                open.outcomes[place.index] = Some(outcome);
                open.n_settled += 1;
            }
        }
        for ring in &mut self.rings {
            for _ in 0..ring.open.len() {
                match ring.open.pop_front() {
                    Some(open) if open.n_settled == open.outcomes.len() => open.answer(),
                    Some(open) => ring.open.push_back(open),
                    None => break,
                }
            }
        }
        self.rings.retain(|ring| !ring.open.is_empty());
    }

    /// Answers everything that is open; what was not judged is [`ScoreError::Closing`].
    pub(super) fn close(self) {
        self.rings.into_iter().flat_map(|ring| ring.open).for_each(Open::answer);
    }
}

impl Open {
    fn has_next(&self, sitting: Option<&Sitting>) -> bool {
        self.n_taken < self.job.items.len() && sitting.is_none_or(|sitting| sitting.is(self.job.sitting()))
    }

    fn answer(self) {
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(ScoreError::Closing)));
        (self.job.reply)(outcomes.collect());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::TokenId;

    use super::*;
    use crate::sources::{Formula, NamedJudge, model::Judge};

    fn sitting(version: &str) -> Sitting {
        let judge: Judge = Arc::new(|_| Ok(Vec::new()));
        Sitting(Some(Arc::new(NamedJudge { version: version.to_owned(), judge })))
    }

    fn job(tenant: u32, sitting: &Sitting, n: usize) -> ScoreJob {
        let item = ScoreRequest {
            prompt: [TokenId(1)].into(),
            response: vec![TokenId(2)],
            prompt_text: "".into(),
            response_text: String::new(),
            formula: Formula::MODEL,
        };
        ScoreJob::new(vec![item; n], |_| ()).of(Tenant(tenant)).judged_by(sitting.clone())
    }

    /// Goal: a batch is shared by tenants, not by jobs. Method: one with three jobs and one with one, batches of four.
    #[test]
    fn a_batch_holds_as_many_responses_of_each_tenant() {
        let (mut turns, one) = (Turns::default(), sitting("a"));
        [job(1, &one, 9), job(1, &one, 9), job(1, &one, 9), job(2, &one, 9)]
            .into_iter()
            .for_each(|job| turns.admit(job));
        let batch = turns.next_batch(BatchLimits { responses: 4, tokens: 100 });
        assert_eq!(batch.iter().map(|place| turns.job(*place).tenant.0).collect::<Vec<_>>(), [1, 2, 1, 2]);
        assert_eq!(batch.iter().map(|place| place.number).collect::<Vec<_>>(), [1, 4, 2, 4]);
    }

    /// Goal: batches begin with one tenant after the other, whatever fills them. Method: batches of one response; and batches in which
    /// two find no room together.
    #[test]
    fn tenants_begin_batches_in_turn() {
        for (responses, tokens) in [(1, 100), (4, 3), (3, 100)] {
            let (mut turns, one) = (Turns::default(), sitting("a"));
            [job(1, &one, 9), job(2, &one, 9)].into_iter().for_each(|job| turns.admit(job));
            let mut next = || {
                let batch = turns.next_batch(BatchLimits { responses, tokens });
                turns.job(batch[0]).tenant.0
            };
            assert_eq!([next(), next(), next(), next()], [1, 2, 1, 2], "{responses} responses, {tokens} tokens");
        }
    }

    /// Goal: a job of another sitting does not wait until all others are done, also where each batch ends with the turn with which it
    /// began. Method: two tenants, batches of two, and a job of another sitting behind the second one's.
    #[test]
    fn every_sitting_has_its_turn() {
        let (mut turns, old, new) = (Turns::default(), sitting("a"), sitting("b"));
        [job(1, &old, 99), job(2, &old, 99), job(2, &new, 1)].into_iter().for_each(|job| turns.admit(job));
        let next = |turns: &mut Turns| {
            let batch = turns.next_batch(BatchLimits { responses: 2, tokens: 100 });
            turns.sitting(batch[0]).model_version().to_owned()
        };
        assert_eq!([next(&mut turns), next(&mut turns)], ["a", "b"]);
    }
}
