//! What `honed eval shapes --json FILE` writes: one line of JSON for each model, each reward model and each shape.

use serde::Serialize;

/// A language model after one of the stages.
#[derive(Debug, Serialize)]
pub(crate) struct Model {
    /// `shapes`.
    pub(crate) eval: &'static str,
    /// `model`.
    pub(crate) kind: &'static str,
    /// Of world, weights and dice.
    pub(crate) seed: u64,
    /// `base`, `sft-unmixed`, `sft`, `base-wide`, `sft-wide` or `ppo`.
    pub(crate) model: &'static str,
    /// Ranked prompts of the reward model that PPO learnt from.
    pub(crate) reward_prompts: Option<usize>,
    /// β of PPO.
    pub(crate) kl_coef: Option<f64>,
    /// Whether PPO had pretraining text mixed in.
    pub(crate) ptx: Option<bool>,
    /// Mean gold on held-out prompts.
    pub(crate) gold: f64,
    /// Standard error of it.
    pub(crate) gold_stderr: f64,
    /// Mean score by the reward model that PPO learnt from.
    pub(crate) score: Option<f64>,
    /// Nats an answer from `sft`.
    pub(crate) kl: f64,
    /// Mean tokens of an answer.
    pub(crate) length: f64,
    /// Share of answers that ended by themselves.
    pub(crate) eos_rate: f64,
    /// Held-out pretraining text, nats a token.
    pub(crate) pretraining_nll: f64,
    /// Against `sft` on the same prompts, ties half.
    pub(crate) win_rate: f64,
    /// Lower end of its 95 % interval.
    pub(crate) win_rate_low: f64,
    /// Upper end.
    pub(crate) win_rate_high: f64,
    /// Each PPO round, measured on its own rollouts.
    pub(crate) rounds: Vec<Point>,
}

/// One round.
#[derive(Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) kl: f64,
    pub(crate) score: f64,
    pub(crate) gold: f64,
}

/// A reward model.
#[derive(Debug, Serialize)]
pub(crate) struct RewardModel {
    /// `shapes`.
    pub(crate) eval: &'static str,
    /// `reward_model`.
    pub(crate) kind: &'static str,
    /// Of world, weights and dice.
    pub(crate) seed: u64,
    /// Ranked prompts that it has seen.
    pub(crate) reward_prompts: usize,
    /// Share of held-out pairs in the labelers' order.
    pub(crate) pair_accuracy: f64,
    /// The best that labels so noisy allow.
    pub(crate) pair_accuracy_ceiling: f64,
}

/// What was found of a shape.
#[derive(Debug, Serialize)]
pub(crate) struct Shape<'a> {
    /// `shapes`.
    pub(crate) eval: &'static str,
    /// `shape`.
    pub(crate) kind: &'static str,
    /// What the literature says.
    pub(crate) shape: &'a str,
    /// What must be true of every seed.
    pub(crate) criterion: &'a str,
    /// Whether it is.
    pub(crate) held: bool,
    /// The seeds.
    pub(crate) seeds: Vec<u64>,
    /// From start to end.
    pub(crate) seconds: f64,
}
