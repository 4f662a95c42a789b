//! The `[reward]` section.

use serde::Deserialize;

/// What judges.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    /// Where scores come from: "model", "remote", "feedback" or "mix".
    pub source: String,
    /// Reward model file; empty: the one that is built into the binary, which fits the built-in policy only.
    pub model: String,
    /// URL of a reward server that speaks OpenRLHF's shape: {"query","prompts","labels"} -> {"rewards"}.
    pub remote_url: String,
    /// Milliseconds before one call to the reward server is given up. 1..=600000
    pub remote_timeout_ms: u64,
    /// Calls after the first before a batch stays unscored and is tried again later. 0..=100
    pub remote_retries: u32,
    /// Rollouts in one scoring batch. 1..=4096
    pub batch: usize,
    /// Seconds that a rollout waits for feedback before the fallback judges it. 0..=604800
    pub feedback_wait_s: u64,
    /// What judges a rollout that got no feedback in time: "model", "remote" or "drop".
    pub feedback_fallback: String,
    /// Weights of the sources when source = "mix"; a source with weight 0 is not asked. -1000.0..=1000.0
    pub mix_model: f64,
    /// Weights of the sources when source = "mix"; a source with weight 0 is not asked. -1000.0..=1000.0
    pub mix_remote: f64,
    /// Weights of the sources when source = "mix"; a source with weight 0 is not asked. -1000.0..=1000.0
    pub mix_feedback: f64,
}
