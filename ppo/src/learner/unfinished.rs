//! The update that the last process died in.
//!
//! Its record is in the log and its rollouts are still claimed, so it is repeated: the same rollouts with the same scores
//! from the same state give the version that the last process would have published. Where that is no longer what the
//! operator wants, or the state is another, or some of its rollouts may not train any more because their user is quarantined
//! since, the rollouts are given back and the next claim decides.

use super::{ATTEMPTS_MAX, batch::Batch, owner::Owner, trainer::Trainer};
use crate::{
    registry::RegistryError,
    rollout_log::{DropReason, LoggedRollout, Outcome, Settlement, UpdateChange, UpdateRow},
};

impl Owner {
    /// What an unfinished update claimed, when it is to be repeated.
    pub(super) fn unfinished(&self) -> Result<Option<Vec<LoggedRollout>>, RegistryError> {
        let log = &self.setup.log;
        let (Some(row), Some(trainer)) = (log.reader().open_update()?, &self.trainer) else {
            return Ok(None);
        };
        let number = row.start.number;
        let used = log.reader().used_rollouts(number)?;
        let end = |outcome| {
            let outcomes = used.iter().map(|used| (used.seq, outcome)).collect();
            Settlement { outcomes, update: Some(UpdateChange::Abandon(number)) }
        };
        if row.n_attempts >= ATTEMPTS_MAX {
            // Whatever it is that kills the process, an out-of-memory kill for one, would do so for ever.
            tracing::error!(
                update = number,
                n_attempts = row.n_attempts,
                "processes keep dying in this update: dropped"
            );
            log.settle(end(Outcome::Dropped(DropReason::UpdateFailed)))?;
            return Ok(None);
        }
        if let Some(why) = obstacle(&row, trainer, &self.setup.config) {
            tracing::warn!(update = number, why, "an unfinished update is not repeated; its rollouts are given back");
            log.settle(end(Outcome::Released))?;
            return Ok(None);
        }
        let rows = log.repeat_update(number)?;
        if rows.len() < used.len() {
            tracing::warn!(
                update = number,
                "rollouts of an unfinished update may not train any more; the others are given back"
            );
            log.settle(end(Outcome::Released))?;
            return Ok(None);
        }
        tracing::info!(update = number, "the update that the last process died in is repeated");
        Ok(Some(rows))
    }

    /// Ends a claim whose update came to nothing. When even that fails, the next start does it.
    pub(super) fn abandon(&self, update: u64, batch: &Batch, outcome: Outcome) {
        let update = Some(UpdateChange::Abandon(update));
        if let Err(error) = self.setup.log.settle(Settlement { outcomes: batch.all(outcome), update }) {
            tracing::error!(%error, "a claim could not be ended; a restart gives it back");
        }
    }
}

/// Why this record is not that of the update that would begin now.
fn obstacle(row: &UpdateRow, trainer: &Trainer, config: &config::Ppo) -> Option<&'static str> {
    let now = trainer.next_start(config);
    match () {
        () if now.parent != row.start.parent => Some("another version is live"),
        () if now.config != row.start.config => Some("the configuration has changed"),
        () if (now.number, &now.state_before) != (row.start.number, &row.start.state_before) => {
            Some("the state that it began with is gone")
        }
        () if now.arithmetic != row.start.arithmetic => Some("another arithmetic computes"),
        () if now.pretraining != row.start.pretraining => Some("the pretraining text has changed"),
        () if now.n_threads != row.start.n_threads => Some("another number of threads computes"),
        () => None,
    }
}
