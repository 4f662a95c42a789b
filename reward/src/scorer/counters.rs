//! What the scorer did, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that both lanes add to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) scored: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) remote_calls: AtomicU64,
    pub(crate) remote_failures: AtomicU64,
    pub(crate) busy_us: AtomicU64,
}

/// What the scorer did since it started, and what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScorerStats {
    /// Jobs that wait in both queues.
    pub queued: usize,
    /// Responses that got a score.
    pub scored: u64,
    /// Responses that got an error.
    pub failed: u64,
    /// Batches judged.
    pub batches: u64,
    /// Jobs refused because of a full queue, their size, or shutdown.
    pub refused: u64,
    /// Calls to the reward server, retries included.
    pub remote_calls: u64,
    /// Calls to the reward server that gave nothing usable.
    pub remote_failures: u64,
    /// Seconds spent judging, both lanes together, pauses before retries included.
    pub busy_s: f64,
}

impl Counters {
    pub(crate) fn snapshot(&self, queued: usize) -> ScorerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ScorerStats {
            queued,
            scored: read(&self.scored),
            failed: read(&self.failed),
            batches: read(&self.batches),
            refused: read(&self.refused),
            remote_calls: read(&self.remote_calls),
            remote_failures: read(&self.remote_failures),
            busy_s: read(&self.busy_us) as f64 * 1e-6,
        }
    }
}
