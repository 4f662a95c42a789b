//! The `[ppo]` section.

use serde::Deserialize;

/// What learns.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ppo {
    /// Learn from traffic; false: serve and log only.
    pub enabled: bool,
    /// Episodes in one update round (InstructGPT C.4: 512; 128 suits 0.1 to 1 B parameters). 1..=65536
    pub rollouts_per_update: usize,
    /// Episodes in one optimiser step; must divide rollouts_per_update. 1..=65536
    pub minibatch: usize,
    /// Episodes in one forward and backward pass; gradients do not depend on it. 1..=65536
    pub micro_batch: usize,
    /// Passes over the round (InstructGPT C.4: 1). 1..=64
    pub epochs: u32,
    /// Adam step size of the policy. 0.0..=1.0
    pub policy_learning_rate: f64,
    /// Adam step size of the value model (InstructGPT C.4: 9e-6). 0.0..=1.0
    pub value_learning_rate: f64,
    /// Update rounds over which both rates rise linearly from a tenth (InstructGPT C.4: 10). 0..=100000
    pub warmup_updates: u64,
    /// KL penalty per nat, beta (InstructGPT C.4: 0.02; TRL: 0.05). 0.0..=100.0
    pub kl_coef: f64,
    /// Adapt kl_coef towards kl_target (Ziegler et al. 2019, section 2.2).
    pub kl_adaptive: bool,
    /// Nats per episode. 0.001..=1000.0
    pub kl_target: f64,
    /// Episodes. 1..=1000000000
    pub kl_horizon: u64,
    /// Discount. 0.0..=1.0
    pub gamma: f64,
    /// GAE's lambda (Ziegler et al. 2019). 0.0..=1.0
    pub lambda: f64,
    /// Clip of the policy ratio below and above 1 (InstructGPT C.4: 0.2). 0.0..=10.0
    pub clip_low: f64,
    /// Clip of the policy ratio below and above 1 (InstructGPT C.4: 0.2). 0.0..=10.0
    pub clip_high: f64,
    /// Clip of the value prediction around the old one. 0.0..=1000.0
    pub value_clip: f64,
    /// Scores are clipped to plus and minus this, after normalisation. 0.0..=1000000.0
    pub score_clip: f64,
    /// Score of an answer that the daemon's own limit cut off before its end token (Ziegler et al. 2019). -1000.0..=1000.0
    pub missing_eos_score: f64,
    /// Versions that a rollout may be behind the trainer. 0..=64
    pub max_staleness: u64,
    /// Cap of the per-token importance weight trainer / behavior. 1.0..=1000.0
    pub is_cap: f64,
    /// A sequence trains only when exp(mean log weight) lies in this range. 0.0..=1000.0
    pub is_geo_low: f64,
    /// A sequence trains only when exp(mean log weight) lies in this range. 0.0..=1000.0
    pub is_geo_high: f64,
    /// Share of a round that one user may fill. 0.001..=1.0
    pub user_share_max: f64,
    /// Global gradient norm, policy and value model separately. 0.0..=1000000.0
    pub max_grad_norm: f64,
    /// Adam (InstructGPT C: 0.9, 0.95; lm-human-preferences: 1e-5). 0.0..=0.999999 ; 0.0..=0.999999 ; 1e-12..=1.0
    pub adam_beta1: f64,
    /// Adam (InstructGPT C: 0.9, 0.95; lm-human-preferences: 1e-5). 0.0..=0.999999 ; 0.0..=0.999999 ; 1e-12..=1.0
    pub adam_beta2: f64,
    /// Adam (InstructGPT C: 0.9, 0.95; lm-human-preferences: 1e-5). 0.0..=0.999999 ; 0.0..=0.999999 ; 1e-12..=1.0
    pub adam_eps: f64,
    /// Stop the round's remaining minibatches when k3(old, new) is above stop_kl; skip the step when above skip_kl. 0.0..=1000.0
    pub stop_kl: f64,
    /// Stop the round's remaining minibatches when k3(old, new) is above stop_kl; skip the step when above skip_kl. 0.0..=1000.0
    pub skip_kl: f64,
    /// Threads of the learner, all at nice 19; 0: one per core. 0..=512
    pub threads: usize,
    /// Share of a core that the learner keeps when traffic never pauses. 0.0..=1.0
    pub cpu_share: f64,
    /// Type of published weights: "source" (as the served model's file), "f32" or "f16".
    pub weight_type: String,
    /// Versions kept on disk beside version 0 and the live one. 1..=100000
    pub keep_versions: usize,
    /// "cpu" or "cuda:N" (needs the `cuda` feature).
    pub device: String,
    /// Seed of minibatch order. 0..=18446744073709551615 (as i64 here)
    pub seed: u64,
    /// The section below it.
    pub log: PpoLog,
}

/// The rollout log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoLog {
    /// Milliseconds that an answered exchange may wait before it is committed. 1..=100
    pub commit_ms: u64,
    /// Exchanges that may wait for the writer; beyond it they are counted as dropped. 1..=1000000
    pub queue: usize,
}
