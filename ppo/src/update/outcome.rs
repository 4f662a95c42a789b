//! What a round did, and what became of each rollout.

use std::collections::BTreeMap;

use super::{progress::Progress, round_stats::RoundStats};
use crate::{experience::Experience, gate::Lesson, guard::Guard, rollout_log::DropReason};

/// What happened to one rollout of the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It took part; mark it trained when the weights are published.
    Trained,
    /// It never will.
    Dropped(DropReason),
}

/// What a round did.
#[derive(Clone, Debug)]
pub struct RoundOutcome {
    /// One for each rollout, in their order.
    pub fates: Vec<Fate>,
    /// Numbers for charts and logs.
    pub stats: RoundStats,
    /// What the episodes that trained were paid, for the gate; as many as it looks at. Empty where the policy made no step.
    pub lessons: Vec<Lesson>,
}

impl RoundOutcome {
    /// Whether the policy's weights changed: without a step there is nothing to publish.
    #[must_use]
    pub fn has_new_policy(&self) -> bool {
        self.stats.n_policy_steps > 0
    }

    /// Whether guard rails kept it from teaching anything. A round that is only to warm the value model up has done what it was
    /// for when that made a step, whichever others were left out; and where nothing is wrong but that the traffic gave too little
    /// to learn from, the learner is not to blame, and must not lose its moments over it.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        let has_warmed_up = self.stats.is_value_warmup && self.stats.n_value_steps > 0;
        let is_to_blame = self.stats.trips.iter().any(|(guard, _)| guard.is_about_the_learner());
        !self.has_new_policy() && !has_warmed_up && is_to_blame
    }

    /// How many rollouts were dropped, by reason.
    #[must_use]
    pub fn n_dropped(&self) -> BTreeMap<DropReason, usize> {
        let mut counts = BTreeMap::new();
        for fate in &self.fates {
            if let Fate::Dropped(reason) = fate {
                *counts.entry(*reason).or_insert(0) += 1;
            }
        }
        counts
    }
}

/// Rollouts that were filtered, or whose round came to nothing, are spent all the same: given back, they would only be
/// claimed again, and a learner that claims the oldest first would never come past them.
pub(super) fn settle(fates: &mut [Fate], experience: &Experience, progress: &Progress) {
    for index in &experience.broken {
        fates[*index] = Fate::Dropped(DropReason::NonFinite);
    }
    let learnt = progress.n_policy_steps > 0 || progress.n_value_steps > 0;
    for (i, episode) in experience.episodes.iter().enumerate() {
        fates[episode.index] = match () {
            () if experience.is_alone[i] => Fate::Dropped(DropReason::Singleton),
            () if progress.ran_away => Fate::Dropped(DropReason::UpdateFailed),
            () if !experience.is_kept(i) => Fate::Dropped(DropReason::OffPolicy),
            () if learnt => Fate::Trained,
            () if progress.trips.pausing().is_some() => Fate::Dropped(DropReason::Guard),
            () if progress.trips.count(Guard::Ess) > 0 => Fate::Dropped(DropReason::OffPolicy),
            () if progress.trips.count(Guard::EffectiveBatch) > 0 => Fate::Dropped(DropReason::Guard),
            () => Fate::Dropped(DropReason::UpdateFailed),
        };
    }
}
