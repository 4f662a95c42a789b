//! What `honed bench` prints: one line of JSON each.

use serde::Serialize;

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Quantiles {
    /// Of values in milliseconds, in any order; zeros when there are none.
    pub(crate) fn of(mut values: Vec<f64>) -> Quantiles {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let i = (share * values.len() as f64) as usize;
            values.get(i.min(values.len().saturating_sub(1))).map_or(0.0, |ms| (ms * 1000.0).round() / 1000.0)
        };
        Quantiles { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// A closed loop of clients over some seconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    pub(crate) output_tokens: u64,
    pub(crate) output_tokens_per_s: f64,
    pub(crate) ttft_ms: Quantiles,
    pub(crate) itl_ms: Quantiles,
}

/// `honed bench serve`.
#[derive(Debug, Serialize)]
pub(crate) struct Serve {
    pub(crate) bench: &'static str,
    pub(crate) model: String,
    pub(crate) concurrency: usize,
    pub(crate) max_tokens: u32,
    /// `policy.threads`; 0: by the size of the model.
    pub(crate) threads: usize,
    pub(crate) busy_threads: usize,
    /// Nobody else wants the cores.
    pub(crate) alone: Load,
    /// Busy threads as the learner's are: at nice 19 in the idle class.
    pub(crate) beside_learner: Load,
    /// Busy threads at nice 19 in the normal class.
    pub(crate) beside_nice_19: Load,
    /// Busy threads at normal priority, as the learner's must never be.
    pub(crate) beside_normal: Load,
}

/// `honed bench serve --with-updates`.
#[derive(Debug, Serialize)]
pub(crate) struct ServeWithUpdates {
    pub(crate) bench: &'static str,
    pub(crate) model: String,
    pub(crate) concurrency: usize,
    pub(crate) max_tokens: u32,
    /// Updates that ended while `with_updates` was measured.
    pub(crate) updates: u64,
    /// 99th percentile of the time between tokens with updates, over the mean of that without.
    pub(crate) itl_p99_ratio: f64,
    /// The learner is paused.
    pub(crate) idle: Load,
    /// The learner works without pause.
    pub(crate) with_updates: Load,
    /// As `idle`, afterwards: how far the machine itself wavers.
    pub(crate) idle_again: Load,
}

/// `honed bench swap`.
#[derive(Debug, Serialize)]
pub(crate) struct Swap {
    pub(crate) bench: &'static str,
    pub(crate) model: String,
    pub(crate) concurrency: usize,
    pub(crate) swaps: u64,
    pub(crate) failed_swaps: u64,
    /// From the request to activate a version (load, canary, promotion) to its answer.
    pub(crate) swap_ms: Quantiles,
    /// The same for a version that was live before this one, which is still in memory.
    pub(crate) rollback_ms: Quantiles,
    pub(crate) failed_rollbacks: u64,
    /// From the activation's answer to the first token of a new request, which the new version drew.
    pub(crate) promote_to_first_token_ms: Quantiles,
    pub(crate) failed_requests: u64,
    /// Gaps between two tokens that a swap fell into, or that fell into a swap.
    pub(crate) token_gap_across_a_swap_ms: Quantiles,
    /// The same traffic without swaps.
    pub(crate) token_gap_without_swaps_ms: Quantiles,
    /// The longest gap across a swap by the p99 gap without swaps.
    pub(crate) gap_ratio: f64,
    /// The longest gap without swaps by the same: what chance alone makes of the ratio above.
    pub(crate) gap_ratio_without_swaps: f64,
    /// The p99 gap across a swap by the same.
    pub(crate) gap_ratio_p99: f64,
    /// Resident memory of the daemon after the first tenth of the swaps and after the last, MiB.
    pub(crate) rss_mib: [u64; 2],
    pub(crate) traffic: Load,
}

/// `honed bench ppo`: the keys of the peer's script.
#[derive(Debug, Serialize)]
pub(crate) struct Ppo {
    pub(crate) peer: &'static str,
    pub(crate) shape: &'static str,
    pub(crate) batch: usize,
    pub(crate) minibatch: usize,
    pub(crate) epochs: u32,
    pub(crate) lora_rank: usize,
    pub(crate) prompt: usize,
    pub(crate) response: usize,
    pub(crate) dtype: &'static str,
    pub(crate) device: String,
    pub(crate) threads: usize,
    /// Knobs beside these; the peer has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) set: Vec<String>,
    pub(crate) response_tokens: usize,
    pub(crate) total_tokens: usize,
    pub(crate) seconds: f64,
    pub(crate) experience_s: f64,
    pub(crate) update_s: f64,
    pub(crate) response_tokens_per_s: f64,
    pub(crate) peak_rss_mib: i64,
    pub(crate) peak_gpu_mib: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_values() {
        let q = Quantiles::of((0..100).rev().map(f64::from).collect());
        assert_eq!((q.p50, q.p99, q.max), (50.0, 99.0, 99.0));
        assert_eq!(Quantiles::of(Vec::new()).max, 0.0);
    }
}
