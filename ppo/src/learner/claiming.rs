//! What the learner does next: repeats what a process died over, rolls a bad version back, or claims rollouts.

use std::time::{Duration, Instant};

use super::{LearnerSetup, owner::Owner, watching::Breach};
use crate::{
    registry::RegistryError,
    rollout_log::{Claim, ClaimRequest, LogError, LoggedRollout},
};

/// Rollouts that the backlog counts at most, in updates.
const BACKLOG_UPDATES: usize = 8;

/// Pause after a claim that came to nothing, in multiples of the time that it took, and at least and at most.
const PAUSE_FACTOR: u32 = 20;
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// When the next claim is worth its cost.
///
/// With a cap on one user's share there can be enough rollouts, and too few that may be claimed together. Only a claim finds that
/// out, a write that goes over all that are judged: made at every look at the log, it would keep exchanges and feedback from
/// being written.
#[derive(Debug, Default)]
pub(super) struct Patience {
    until: Option<Instant>,
}

impl Patience {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// A claim that took so long came to nothing.
    fn begin(&mut self, now: Instant, took: Duration) {
        self.until = Some(now + took.saturating_mul(PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX));
    }

    pub(super) fn end(&mut self) {
        self.until = None;
    }
}

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
        // A claim is a write, and a look at the live version reads hundreds of rows; to count them is neither.
        if !self.count_backlog()? || !self.patience.is_over(Instant::now()) {
            return Ok(Work::Nothing);
        }
        // Before anything is learnt from what a bad version said.
        if let Some(breach) = self.breach()? {
            return Ok(Work::RollBack(breach));
        }
        Ok(self.claim()?.map_or(Work::Nothing, Work::Learn))
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

    fn claim(&mut self) -> Result<Option<Vec<LoggedRollout>>, RegistryError> {
        let Some(trainer) = &self.trainer else {
            return Ok(None);
        };
        let config = &self.setup.config;
        let n_rollouts = config.rollouts_per_update;
        let lineage = self.setup.registry.lineage(trainer.head.version, config.max_staleness)?;
        let request = ClaimRequest { n_rollouts, lineage, user_share_max: config.user_share_max };
        let began = Instant::now();
        let claim = self.setup.log.begin_update(request, trainer.next_start(config))?;
        Ok(match claim {
            Claim::Granted(rows) => {
                self.patience.end();
                Some(rows)
            }
            Claim::Short { .. } => {
                self.patience.begin(Instant::now(), began.elapsed());
                None
            }
        })
    }
}

/// Rollouts that are judged, and those that wait for it: at most a few updates' worth of each.
pub(super) fn backlog(setup: &LearnerSetup) -> Result<(u64, u64), LogError> {
    setup.log.reader().backlog(setup.config.rollouts_per_update.saturating_mul(BACKLOG_UPDATES))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: claims that come to nothing take a twentieth of the writer's time at most. Method: the clock by hand.
    #[test]
    fn a_claim_that_came_to_nothing_is_not_made_again_at_once() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut patience = Patience::default();
        assert!(patience.is_over(start));
        for (took, pause) in [(ms(1), ms(1000)), (ms(900), ms(18_000)), (ms(10_000), ms(60_000))] {
            patience.begin(start, took);
            assert!(!patience.is_over(start + pause - ms(1)) && patience.is_over(start + pause), "{took:?}");
        }
        patience.end();
        assert!(patience.is_over(start), "what was granted owes nothing");
    }
}
