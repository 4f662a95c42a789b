//! Counters of the scoring pump.

use std::sync::atomic::AtomicU64;

/// What the pump counts.
#[derive(Debug, Default)]
pub struct ScoringCounters {
    /// Verdicts stored.
    pub stored: AtomicU64,
    /// Times that a rollout stayed unscored because its judge could not be reached.
    pub deferred: AtomicU64,
}
