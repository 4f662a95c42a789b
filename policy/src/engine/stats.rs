//! Counters of the engine, as Prometheus wants them: monotone, shared by all residents, read without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::rest::Rest;
use crate::rollout::FinishReason;

/// What the residents count; they outlive every resident.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) prompt_tokens: AtomicU64,
    pub(super) cached_prompt_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) step_tokens: AtomicU64,
    pub(super) step_sizes: [AtomicU64; STEP_SIZES.len() + 1],
    pub(super) moves: AtomicU64,
    pub(super) rejected_full: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) finished: [AtomicU64; FINISH_REASONS.len()],
    /// Not a counter, but as shared by all residents as they are.
    pub(super) rest: Rest,
}

/// Upper ends of the classes of [`EngineStats::step_sizes`], tokens; above the last lies one more class.
pub const STEP_SIZES: [usize; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Every finish reason, in the order of [`EngineStats::finished`].
pub const FINISH_REASONS: [FinishReason; 5] = [
    FinishReason::EndToken,
    FinishReason::Stop,
    FinishReason::ClientLimit,
    FinishReason::DaemonLimit,
    FinishReason::Cancelled,
];

/// A reading of the engine's gauges and counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Responses being prefilled or decoded now.
    pub running: usize,
    /// Requests waiting for a slot now.
    pub waiting: usize,
    /// Prompt tokens of started choices, those found in the cache included.
    pub prompt_tokens: u64,
    /// Prompt tokens that were found in the cache.
    pub cached_prompt_tokens: u64,
    /// Tokens drawn.
    pub generated_tokens: u64,
    /// Forward passes.
    pub steps: u64,
    /// Tokens in all forward passes.
    pub step_tokens: u64,
    /// Forward passes by how many tokens they had, in the classes of [`STEP_SIZES`].
    pub step_sizes: [u64; STEP_SIZES.len() + 1],
    /// Sequences that moved, so that a gap between them would not cost a pass of its own.
    pub moves: u64,
    /// Tokens that running sequences hold in the key-value caches now.
    pub cache_tokens: usize,
    /// Tokens that the key-value caches have room for.
    pub cache_tokens_max: usize,
    /// Requests refused because as many waited as may wait.
    pub rejected_full: u64,
    /// Requests that ended in a failure of the engine.
    pub failed: u64,
    /// Responses that ended, by [`FINISH_REASONS`].
    pub finished: [u64; FINISH_REASONS.len()],
}

impl Counters {
    pub(super) fn read(&self) -> EngineStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EngineStats {
            running: 0,
            waiting: 0,
            prompt_tokens: get(&self.prompt_tokens),
            cached_prompt_tokens: get(&self.cached_prompt_tokens),
            generated_tokens: get(&self.generated_tokens),
            steps: get(&self.steps),
            step_tokens: get(&self.step_tokens),
            step_sizes: std::array::from_fn(|i| get(&self.step_sizes[i])),
            moves: get(&self.moves),
            cache_tokens: 0,
            cache_tokens_max: 0,
            rejected_full: get(&self.rejected_full),
            failed: get(&self.failed),
            finished: std::array::from_fn(|i| get(&self.finished[i])),
        }
    }

    pub(super) fn count_step(&self, n_tokens: usize) {
        add(&self.steps, 1);
        add(&self.step_tokens, n_tokens);
        add(&self.step_sizes[STEP_SIZES.partition_point(|&end| end < n_tokens)], 1);
    }

    pub(super) fn count_finish(&self, reason: FinishReason) {
        let i = FINISH_REASONS.iter().position(|&r| r == reason).expect("FINISH_REASONS holds every reason");
        add(&self.finished[i], 1);
    }
}

/// Relaxed: a reading of several counters is never one moment.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
