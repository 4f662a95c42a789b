//! The arguments of low-rank adapters, and what follows from them.

use candle_core::Device;
use config::{LORA_ALPHA, LORA_RANK_MAX};
use policy::{
    architecture::Shape,
    transformer::{Adapter, LoraShape},
};

use super::{error::Result as TrainResult, options::not_negative};

/// Highest learning rate of an adapter, unless told (TRL's `RewardConfig`: 1e-4): ten times that of whole weights ("LoRA Without
/// Regret").
const LEARNING_RATE: f64 = 1e-4;

/// What learns in place of the weights, if anything does.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct LoraOptions {
    /// Rank of a low-rank adapter that learns in place of the weights (LoRA), in every linear layer; 0: full fine-tuning. `sft` writes
    /// a whole model all the same, adapter and --model in one; what `reward` writes is small, judges beside --model only, and shares
    /// its weights with a learner of `ppo.lora_rank`.
    #[arg(long = "lora-rank", value_name = "R", default_value_t = 0, value_parser = rank)]
    pub(super) rank: usize,
    /// The adapter's updates are multiplied by this / rank.
    #[arg(long = "lora-alpha", value_name = "ALPHA", default_value_t = 32.0, value_parser = alpha)]
    alpha: f64,
}

impl LoraOptions {
    /// A new adapter, which changes nothing yet; `None`: whole weights learn.
    pub(super) fn adapter(&self, shape: &Shape, seed: u64) -> TrainResult<Option<Adapter>> {
        let lora = LoraShape { rank: self.rank, alpha: self.alpha as f32 };
        let is_wanted = self.rank > 0;
        Ok(is_wanted.then(|| Adapter::new(shape, lora, seed, &Device::Cpu)).transpose()?)
    }

    /// The rate that was given; else that of an adapter, or of whole weights.
    pub(super) fn learning_rate(&self, given: Option<f64>, of_whole_weights: f64) -> f64 {
        given.unwrap_or(if self.rank > 0 { LEARNING_RATE } else { of_whole_weights })
    }
}

/// A rank of an adapter, or 0.
fn rank(text: &str) -> Result<usize, String> {
    let rank = text.parse().ok().filter(|rank| *rank <= LORA_RANK_MAX as usize);
    rank.ok_or_else(|| format!("expected a whole number in 0..={LORA_RANK_MAX}"))
}

/// What an adapter's updates may be multiplied by, times its rank.
fn alpha(text: &str) -> Result<f64, String> {
    let in_range = not_negative(text).ok().filter(|alpha| LORA_ALPHA.contains(alpha));
    in_range.ok_or_else(|| format!("expected a number from {} to {}", LORA_ALPHA.start(), LORA_ALPHA.end()))
}
