//! What came of the averages that were judged, for whoever looks.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{gate::names, rollout_log::VersionRow};

/// What became of an average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AverageOutcome {
    /// It passed, and may be activated.
    Retained,
    /// The gate refused it.
    Rejected,
    /// There was no verdict: no room, no judge, another live version meanwhile, or a fault of ours.
    Unjudged,
}

impl AverageOutcome {
    /// All outcomes.
    pub const ALL: [AverageOutcome; 3] = [AverageOutcome::Retained, AverageOutcome::Rejected, AverageOutcome::Unjudged];

    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AverageOutcome::Retained => "retained",
            AverageOutcome::Rejected => "rejected",
            AverageOutcome::Unjudged => "unjudged",
        }
    }
}

/// Never waits for a judging.
#[derive(Debug, Default)]
pub struct AverageBoard {
    counts: [AtomicU64; AverageOutcome::ALL.len()],
    difference: Mutex<Option<(f64, f64)>>,
}

impl AverageBoard {
    /// Averages by what became of them, since the process began.
    pub fn counts(&self) -> impl Iterator<Item = (AverageOutcome, u64)> + '_ {
        AverageOutcome::ALL.into_iter().zip(self.counts.iter().map(|n| n.load(Ordering::Relaxed)))
    }

    /// Mean paired difference of rewards, average − live, and its standard error, score units: of the last one that has a
    /// verdict, also of an earlier process; `None` before the first, and where no trial compared rewards.
    #[must_use]
    pub fn reward_difference(&self) -> Option<(f64, f64)> {
        *self.difference.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, outcome: AverageOutcome) {
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn show(&self, row: &VersionRow) {
        let number = |name: &str| row.numbers.get(name).copied();
        let difference = number(names::REWARD_DIFFERENCE).zip(number(names::REWARD_DIFFERENCE_ERROR));
        *self.difference.lock().unwrap_or_else(PoisonError::into_inner) = difference;
    }
}
