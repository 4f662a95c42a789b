//! What the scorer did, for `/metrics`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Outcome;
use crate::score::ScoreError;

/// Counters that both lanes add to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) scored: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) non_finite: AtomicU64,
    pub(crate) abandoned: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) batch_tokens: AtomicU64,
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
    /// Those among them that got NaN, an infinity or no number.
    pub non_finite: u64,
    /// Responses that were not judged because their caller had left.
    pub abandoned: u64,
    /// Batches judged.
    pub batches: u64,
    /// Tokens in all batches, prompts included.
    pub batch_tokens: u64,
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
    /// Counts one batch of `n_tokens` that took `elapsed`.
    pub(crate) fn count_batch(&self, outcomes: &[Outcome], n_tokens: usize, elapsed: Duration) {
        let add = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
        let n_scored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let non_finite = outcomes.iter().filter(|outcome| matches!(outcome, Err(ScoreError::NonFinite { .. })));
        add(&self.scored, n_scored);
        add(&self.failed, outcomes.len() - n_scored);
        add(&self.non_finite, non_finite.count());
        add(&self.batches, 1);
        add(&self.batch_tokens, n_tokens);
        self.busy_us.fetch_add(elapsed.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, queued: usize) -> ScorerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ScorerStats {
            queued,
            scored: read(&self.scored),
            failed: read(&self.failed),
            non_finite: read(&self.non_finite),
            abandoned: read(&self.abandoned),
            batches: read(&self.batches),
            batch_tokens: read(&self.batch_tokens),
            refused: read(&self.refused),
            remote_calls: read(&self.remote_calls),
            remote_failures: read(&self.remote_failures),
            busy_s: read(&self.busy_us) as f64 * 1e-6,
        }
    }
}
