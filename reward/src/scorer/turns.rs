//! The jobs that a lane is judging, which take turns.
//!
//! A batch holds one response of each job in turn until it is full, by count or by tokens. So a caller with one response
//! waits for one batch and not for another's four thousand, and short responses of many callers still fill a batch. Jobs of
//! another sitting than the first one's wait for a batch of theirs: one is judged by one model.

use std::collections::VecDeque;

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

/// Jobs in the order of their next turn.
#[derive(Default)]
pub(super) struct Turns {
    open: VecDeque<Open>,
    n_admitted: u64,
}

impl Turns {
    /// Jobs that are being judged.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes a job; it gets its turn after those that are here. An empty one is answered at once.
    pub(super) fn admit(&mut self, job: ScoreJob) {
        if job.items.is_empty() {
            return (job.reply)(Vec::new());
        }
        self.n_admitted += 1;
        let outcomes = vec![None; job.items.len()];
        self.open.push_back(Open { number: self.n_admitted, job, outcomes, n_taken: 0, n_settled: 0 });
    }

    /// Lets go of jobs whose caller has left, unanswered. How many responses were thus not judged.
    pub(super) fn drop_abandoned(&mut self) -> usize {
        let mut n_dropped = 0;
        self.open.retain(|open| {
            let is_wanted = !open.job.cancel.is_cancelled();
            n_dropped += if is_wanted { 0 } else { open.job.items.len() - open.n_settled };
            is_wanted
        });
        n_dropped
    }

    /// The places of the next batch; empty when nothing is open.
    pub(super) fn next_batch(&mut self, limits: BatchLimits) -> Vec<Place> {
        let mut batch = Vec::new();
        let mut tokens = 0;
        let mut n_passed = 0;
        let mut sitting: Option<Sitting> = None;
        while batch.len() < limits.responses && n_passed < self.open.len() {
            let open = &mut self.open[0];
            match open.job.items.get(open.n_taken) {
                Some(_) if sitting.as_ref().is_some_and(|sitting| !sitting.is(open.job.sitting())) => n_passed += 1,
                Some(item) if !batch.is_empty() && tokens + item.n_tokens() > limits.tokens => break,
                Some(item) => {
                    tokens += item.n_tokens();
                    batch.push(Place { number: open.number, index: open.n_taken });
                    open.n_taken += 1;
                    n_passed = 0;
                    sitting.get_or_insert_with(|| open.job.sitting().clone());
                }
                None => n_passed += 1,
            }
            self.open.rotate_left(1);
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
        let open = self.open.iter().find(|open| open.number == place.number);
        &open.expect("a job stays while one of its responses is in a batch").job
    }

    /// Takes what became of a batch and answers every job that is now complete.
    pub(super) fn settle(&mut self, batch: &[Place], outcomes: Vec<Outcome>) {
        for (place, outcome) in batch.iter().zip(outcomes) {
            if let Some(open) = self.open.iter_mut().find(|open| open.number == place.number) {
                open.outcomes[place.index] = Some(outcome);
                open.n_settled += 1;
            }
        }
        for _ in 0..self.open.len() {
            match self.open.pop_front() {
                Some(open) if open.n_settled == open.outcomes.len() => open.answer(),
                Some(open) => self.open.push_back(open),
                None => return,
            }
        }
    }

    /// Answers everything that is open; what was not judged is [`ScoreError::Closing`].
    pub(super) fn close(self) {
        self.open.into_iter().for_each(Open::answer);
    }
}

impl Open {
    fn answer(self) {
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(ScoreError::Closing)));
        (self.job.reply)(outcomes.collect());
    }
}
