//! Exchanges on their way into the rollout log: the client is answered first.
//!
//! A deposit travels inside the body of the answer and appends when that body is dropped: after its last byte was handed to
//! the socket, or when the client left. The append only queues; the log's writer commits.

use policy::{FinishReason, Rollout, engine::Event};
use ppo::RolloutLog;

/// Rollouts that are logged when this is dropped.
pub(crate) struct Deposit {
    /// `None` when the client asked for `store: false`.
    log: Option<RolloutLog>,
    rollouts: Vec<Rollout>,
}

impl Deposit {
    /// An empty deposit.
    pub(crate) fn new(log: Option<RolloutLog>) -> Deposit {
        Deposit { log, rollouts: Vec::new() }
    }

    /// Another empty deposit into the same log.
    pub(crate) fn like(other: &Deposit) -> Deposit {
        Deposit::new(other.log.clone())
    }

    /// Adds an exchange whose answer is complete.
    pub(crate) fn add(&mut self, rollout: Rollout) {
        // Where no token was asked for, a prompt was scored: nobody answered it, and there is nothing to learn.
        if self.log.is_some() && rollout.sampling.max_tokens > 0 {
            self.rollouts.push(rollout);
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
        for rollout in self.rollouts.drain(..) {
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
