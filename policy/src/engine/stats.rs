//! Counters of the engine, as Prometheus wants them: monotone, shared by all residents, read without a lock. How requests end
//! and how long decode steps take is counted for each resident by itself: whoever watches one version must not be told of
//! another's.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{rest::Rest, step_times::StepCounts};
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

/// Where one resident counts.
#[derive(Debug)]
pub(super) struct ResidentCounters {
    /// What all residents count together.
    pub(super) engine: Arc<Counters>,
    failed_requests: AtomicU64,
    failed: AtomicU64,
    finished: AtomicU64,
    cancelled: AtomicU64,
    /// How long its decode steps took.
    pub(super) decode_steps: StepCounts,
}

/// How what was asked of a resident has ended, since it came into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endings {
    /// Requests that ended in a failure of the engine.
    pub failed_requests: u64,
    /// Responses that these requests still owed.
    pub failed: u64,
    /// Responses that ended, however.
    pub finished: u64,
    /// Those among them that nobody waited for any more.
    pub cancelled: u64,
}

impl Endings {
    /// What ended after `before`; all of it where the version came into memory again since, and counting began anew.
    #[must_use]
    pub fn since(self, before: Endings) -> Endings {
        let since = || {
            Some(Endings {
                failed_requests: self.failed_requests.checked_sub(before.failed_requests)?,
                failed: self.failed.checked_sub(before.failed)?,
                finished: self.finished.checked_sub(before.finished)?,
                cancelled: self.cancelled.checked_sub(before.cancelled)?,
            })
        };
        since().unwrap_or(self)
    }
}

/// Upper ends of the classes of [`EngineStats::step_sizes`], tokens; above the last lies one more class. A pass has at most
/// `policy.batch_tokens` tokens, and the last end is vLLM's.
pub const STEP_SIZES: [usize; 15] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

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
}

impl ResidentCounters {
    pub(super) fn new(engine: Arc<Counters>) -> ResidentCounters {
        ResidentCounters {
            engine,
            failed_requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            decode_steps: StepCounts::default(),
        }
    }

    pub(super) fn count_finish(&self, reason: FinishReason) {
        let i = FINISH_REASONS.iter().position(|&r| r == reason).expect("FINISH_REASONS holds every reason");
        add(&self.engine.finished[i], 1);
        add(&self.finished, 1);
        add(&self.cancelled, usize::from(reason == FinishReason::Cancelled));
    }

    /// A request failed that still owed so many responses. What is held against a version is counted in these, as what has
    /// finished is.
    pub(super) fn count_failure(&self, n_owed: u32) {
        add(&self.engine.failed, 1);
        add(&self.failed_requests, 1);
        add(&self.failed, n_owed as usize);
    }

    pub(super) fn endings(&self) -> Endings {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Endings {
            failed_requests: get(&self.failed_requests),
            failed: get(&self.failed),
            finished: get(&self.finished),
            cancelled: get(&self.cancelled),
        }
    }
}

/// Relaxed: a reading of several counters is never one moment.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the largest pass that can be configured has a class with an end, so that a quantile of it is no infinity. Method:
    /// passes at the ends of classes and beside them, the largest among them.
    #[test]
    fn every_pass_that_can_be_configured_has_a_class() {
        let counters = Counters::default();
        for n_tokens in [1, 2, 3, 4096, 4097, 8192, 8193, 16384] {
            counters.count_step(n_tokens);
        }
        let sizes = counters.read().step_sizes;
        let class = |end| sizes[STEP_SIZES.iter().position(|&size| size == end).expect("an end")];
        assert_eq!([1, 2, 4, 4096, 8192, 16384].map(class), [1, 1, 1, 1, 2, 2]);
        assert_eq!(sizes.iter().sum::<u64>(), 8, "none lies above the last end");
    }
}
