//! What the learner does next: repeats what a process died over, rolls a bad version back, or claims rollouts.

use super::{LearnerSetup, owner::Owner, watching::Breach};
use crate::{
    registry::RegistryError,
    rollout_log::{Claim, ClaimRequest, LogError, LoggedRollout},
};

/// Rollouts that the backlog counts at most, in updates.
const BACKLOG_UPDATES: usize = 8;

/// What is to be done next.
pub(super) enum Work {
    Learn(Vec<LoggedRollout>),
    RollBack(Breach),
    Nothing,
}

impl Owner {
    /// What the next update learns from: first of all what the last process died over.
    pub(super) fn next_work(&mut self) -> Result<Work, RegistryError> {
        if self.may_be_unfinished {
            let unfinished = self.unfinished()?;
            self.may_be_unfinished = false;
            if let Some(rows) = unfinished {
                return Ok(Work::Learn(rows));
            }
        }
        let may_claim = self.count_backlog()?;
        // Before anything is learnt from what a bad version said.
        if may_claim && let Some(breach) = self.watch.look()? {
            return Ok(Work::RollBack(breach));
        }
        // A claim is a write; looking is not.
        let rows = if may_claim { self.claim()? } else { None };
        Ok(rows.map_or(Work::Nothing, Work::Learn))
    }

    /// Whether there are enough rollouts for an update.
    pub(super) fn count_backlog(&self) -> Result<bool, RegistryError> {
        let (n_scored, n_generated) = backlog(&self.setup)?;
        self.board.write(|status| {
            status.n_scored = n_scored;
            status.n_generated = n_generated;
        });
        Ok(n_scored >= self.setup.config.rollouts_per_update as u64)
    }

    fn claim(&self) -> Result<Option<Vec<LoggedRollout>>, RegistryError> {
        let Some(trainer) = &self.trainer else {
            return Ok(None);
        };
        let config = &self.setup.config;
        let n_rollouts = config.rollouts_per_update;
        let lineage = self.setup.registry.lineage(trainer.head.version, config.max_staleness)?;
        let request = ClaimRequest { n_rollouts, lineage, user_share_max: config.user_share_max };
        let claim = self.setup.log.begin_update(request, trainer.next_start(config))?;
        Ok(match claim {
            Claim::Granted(rows) => Some(rows),
            Claim::Short { .. } => None,
        })
    }
}

/// Rollouts that are judged, and those that wait for it: at most a few updates' worth of each.
pub(super) fn backlog(setup: &LearnerSetup) -> Result<(u64, u64), LogError> {
    setup.log.reader().backlog(setup.config.rollouts_per_update.saturating_mul(BACKLOG_UPDATES))
}
