//! Exchanges on their way into the rollout log: the client is answered first.
//!
//! A deposit travels inside the body of the answer and appends when that body is dropped: after its last byte was handed to
//! the socket, or when the client left. The append only queues; the log's writer commits.
//!
//! Only what was handed over may train. A stream hands over each choice as it ends; the choices of a whole answer go
//! together, and when it is never made (the client left, the time is up, another choice failed) none of them was read.

use policy::{FinishReason, Rollout, engine::Event};
use ppo::RolloutLog;

/// Rollouts that are logged when this is dropped.
pub(crate) struct Deposit {
    /// `None` for what is no exchange.
    log: Option<RolloutLog>,
    /// `false` when the client asked for `store: false`: then exchanges are counted, and go.
    stores: bool,
    rollouts: Vec<Rollout>,
    /// Whether what is in it was handed to the client.
    is_answered: bool,
}

impl Deposit {
    /// An empty deposit for choices that are handed over one by one; `stores`: what the client asked for.
    pub(crate) fn new(log: RolloutLog, stores: bool) -> Deposit {
        Deposit { log: Some(log), stores, rollouts: Vec::new(), is_answered: true }
    }

    /// Of an answer that is no exchange.
    pub(crate) fn nothing() -> Deposit {
        Deposit { log: None, stores: false, rollouts: Vec::new(), is_answered: true }
    }

    /// An empty deposit into the same log, for choices that are handed over together: until [`Deposit::answered`] nobody
    /// has read any of them.
    pub(crate) fn of_whole(other: &Deposit) -> Deposit {
        Deposit { log: other.log.clone(), stores: other.stores, rollouts: Vec::new(), is_answered: false }
    }

    /// Notes that the answer was handed to the client.
    pub(crate) fn answered(&mut self) {
        self.is_answered = true;
    }

    /// Adds an exchange whose answer is complete.
    pub(crate) fn add(&mut self, rollout: Rollout) {
        // Without a token nobody answered: a prompt was scored, or its client left while it waited. There is nothing to learn,
        // and one request can wait with thousands of choices, whose rows would crowd others out of the log's queue.
        let Some(log) = self.log.as_ref().filter(|_| !rollout.response.is_empty()) else { return };
        match self.stores {
            true => self.rollouts.push(rollout),
            false => log.count_unstored(),
        }
    }

    /// Adds an exchange that its client did not wait for. However the response ended, nobody read it, so it does not train.
    pub(crate) fn add_unanswered(&mut self, event: Event) {
        if let Event::Finished(finished) = event {
            let mut rollout = finished.rollout;
            rollout.finish = FinishReason::Cancelled;
            self.add(rollout);
        }
    }

    /// Gives the exchanges of a whole answer the numbers under which its client knows them: `numbers[i]` for choice `i`.
    pub(crate) fn renumber(&mut self, numbers: &[u32]) {
        for rollout in &mut self.rollouts {
            if let Some(number) = numbers.get(rollout.id.index as usize) {
                rollout.id.index = *number;
            }
        }
    }

    /// Hands everything to the log's queue now.
    pub(crate) fn append(&mut self) {
        let Some(log) = &self.log else { return };
        for mut rollout in self.rollouts.drain(..) {
            if !self.is_answered {
                rollout.finish = FinishReason::Cancelled;
            }
            // A full queue is counted by the log itself and never fails a request.
            if let Err(full) = log.append(rollout) {
                tracing::warn!(%full, "a rollout was dropped");
            }
        }
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        self.append();
    }
}

#[cfg(test)]
mod tests {
    use policy::{LogProb, PolicyVersion, RolloutId, SampledToken, SamplingParams, TokenId};
    use ppo::rollout_log::{DropReason, LogSettings};

    use super::*;

    fn rollout(index: u32, n_tokens: usize) -> Rollout {
        let probability = LogProb(-1.0);
        let token = SampledToken { id: TokenId(3), log_prob: probability, behavior: probability, log_kept_mass: 0.0 };
        Rollout {
            id: RolloutId { request: "cmpl-1".to_owned(), index },
            version: PolicyVersion::SFT,
            prompt: vec![TokenId(1), TokenId(2)],
            response: vec![token; n_tokens],
            sampling: SamplingParams::default(),
            finish: FinishReason::EndToken,
            user: None,
            created_ms: 1,
        }
    }

    /// Goal: what nobody received does not train. Method: choices of a stream, of a whole answer that was made, and of one
    /// that was not; and a choice that never had a token.
    #[test]
    fn what_was_not_handed_over_is_cancelled_and_what_has_no_token_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let settings = LogSettings { commit_ms: 1, queue: 16, rescore_on_feedback: false };
        let log = RolloutLog::open(folder.path(), &settings).unwrap();
        let mut stream = Deposit::new(log.clone(), true);
        let (mut made, mut unmade) = (Deposit::of_whole(&stream), Deposit::of_whole(&stream));
        for (index, deposit) in (0..).zip([&mut stream, &mut made, &mut unmade]) {
            deposit.add(rollout(index, 1));
            deposit.add(rollout(10 + index, 0));
        }
        made.answered();
        drop((stream, made, unmade));
        log.flush().unwrap();
        let id = |index| RolloutId { request: "cmpl-1".to_owned(), index };
        let finish = |index| log.reader().rollout(&id(index)).unwrap().map(|row| row.rollout.finish);
        assert_eq!([0, 1].map(finish), [Some(FinishReason::EndToken); 2]);
        assert_eq!(finish(2), Some(FinishReason::Cancelled));
        assert_eq!([10, 11, 12].map(finish), [None; 3]);
        assert_eq!(log.counters().dropped[&DropReason::NotStored], 0);
        Deposit::new(log.clone(), false).add(rollout(20, 1));
        Deposit::new(log.clone(), false).add(rollout(21, 0));
        log.flush().unwrap();
        assert_eq!((finish(20), log.counters().dropped[&DropReason::NotStored]), (None, 1));
    }
}
