//! What a round did, and what became of each rollout.

use std::collections::BTreeMap;

use super::{progress::Progress, round_stats::RoundStats};
use crate::{experience::Experience, gate::Lesson, guard::Guard, rollout_log::DropReason};

/// Lessons that are handed on at most.
const LESSONS_MAX: usize = 64;

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
    /// What the episodes that trained were paid, for the gate; as many as it looks at.
    pub lessons: Vec<Lesson>,
}

impl RoundOutcome {
    /// Whether the policy's weights changed: without a step there is nothing to publish.
    #[must_use]
    pub fn has_new_policy(&self) -> bool {
        self.stats.n_policy_steps > 0
    }

    /// Whether guard rails kept the policy from learning anything.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        !self.has_new_policy() && !self.stats.trips.is_empty()
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

/// What the first episodes that trained were paid, and how likely they were.
pub(super) fn lessons(experience: &Experience) -> Vec<Lesson> {
    let trained = (0..experience.episodes.len()).filter(|&i| experience.is_kept(i));
    let lesson = |i: usize| Lesson {
        index: experience.episodes[i].index,
        temperature: experience.episodes[i].temperature,
        paid: experience.rewards[experience.range(i)].iter().sum(),
        old_log_prob: experience.passes.old[experience.range(i)].iter().sum(),
    };
    trained.take(LESSONS_MAX).map(lesson).collect()
}

/// Rollouts that were filtered, or whose round came to nothing, are spent all the same: given back, they would only be
/// claimed again.
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
            () => Fate::Dropped(DropReason::UpdateFailed),
        };
    }
}
