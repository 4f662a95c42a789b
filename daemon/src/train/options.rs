//! The arguments that fine-tuning and reward models share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use policy::{
    architecture::Shape,
    checkpoint::WeightType,
    kernels::Precision,
    memory::WidestPass,
    model_error::ModelError,
    sampling::GREEDY_BELOW,
    threads::{is_small_of, lanes_of},
    transformer::Keep,
};

/// How any model is fitted to a file.
#[derive(Args, Clone, Debug)]
pub(super) struct FitOptions {
    /// Records to measure on; without it, a share of --data is held back by user id.
    #[arg(long, value_name = "FILE")]
    pub(super) validation: Option<PathBuf>,
    /// Share of --data that is held back when there is no --validation, per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=99))]
    pub(super) validation_percent: u8,
    /// Text that moves the borders of the split: bucket = hash(salt, user) mod 100.
    #[arg(long, value_name = "TEXT", default_value = "honed")]
    pub(super) split_salt: String,
    /// Learning rate over the run: half a cosine down to a tenth (InstructGPT C), or constant.
    #[arg(long, value_enum, default_value_t = Schedule::Cosine)]
    pub(super) schedule: Schedule,
    /// Steps over which the learning rate rises from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) warmup_steps: usize,
    /// Global gradient norm above which gradients are scaled down.
    #[arg(long, value_name = "NORM", default_value_t = 1.0, value_parser = positive)]
    pub(super) max_grad_norm: f64,
    /// Tokens of one record at most, at least 2; 0: the model's context. Longer records are left out, documents are cut.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) record_tokens: usize,
    /// Seed of the order of the records and, for reward models, of the heads.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// Threads; 0: one per core.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=512))]
    pub(super) threads: u16,
    /// In what matrix products are computed; auto: bf16 where the processor multiplies it in hardware and the model has 30
    /// million parameters or more.
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16"])]
    pub(super) dtype: String,
    /// Keep one activation a block and compute the rest again: a third more arithmetic for a tenth of the memory.
    #[arg(long)]
    pub(super) activation_checkpointing: bool,
    /// Type of the written weights: as in the model's own file, or one for all matrices.
    #[arg(long, value_enum, default_value_t = Weights::Source)]
    pub(super) weight_type: Weights,
    /// Replace --out if it exists.
    #[arg(long)]
    pub(super) replace: bool,
    /// Go on, bit for bit on as many threads, with the run that the same command has left in OUT.resume; where there is none, from
    /// the start.
    #[arg(long)]
    pub(super) resume: bool,
    /// Seconds after which weights and moments are written to OUT.resume, three times the size of the weights in f32; also when
    /// the run is interrupted. 0: after every step.
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds)]
    pub(super) state_every_s: f64,
}

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Schedule {
    /// Half a cosine, down to a tenth of the peak.
    Cosine,
    /// The peak throughout.
    Constant,
}

/// The words of `ppo.weight_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Weights {
    /// As in the source file.
    Source,
    /// 32 bits.
    F32,
    /// Matrices in 16 bits.
    F16,
}

impl FitOptions {
    /// Share of the highest rate at the end of the run.
    pub(super) fn final_share(&self) -> f64 {
        match self.schedule {
            Schedule::Cosine => 0.1,
            Schedule::Constant => 1.0,
        }
    }

    /// For the file.
    pub(super) fn weight_type(&self) -> WeightType {
        match self.weight_type {
            Weights::Source => WeightType::Source,
            Weights::F32 => WeightType::F32,
            Weights::F16 => WeightType::F16,
        }
    }

    /// Tokens of one record at most, for a model with this context.
    pub(super) fn tokens_max(&self, context: usize) -> usize {
        if self.record_tokens == 0 { context } else { self.record_tokens.clamp(2, context) }
    }

    /// Threads that will work.
    pub(super) fn n_threads(&self) -> usize {
        match usize::from(self.threads) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// What forward keeps for backward.
    pub(super) fn keep(&self) -> Keep {
        if self.activation_checkpointing { Keep::Inputs } else { Keep::All }
    }

    /// What `--dtype` means for a model of this shape on this machine.
    pub(super) fn precision(&self, shape: &Shape) -> Result<Precision, ModelError> {
        Precision::choose(&self.dtype, is_small_of(shape.n_parameters()))
    }

    /// The pass over so many tokens at once.
    pub(super) fn pass(&self, shape: &Shape, tokens: usize, has_logits: bool) -> Result<WidestPass, ModelError> {
        let precision = self.precision(shape)?;
        let lanes = lanes_of(shape.n_parameters(), self.n_threads());
        Ok(WidestPass { tokens, keep: self.keep(), precision, has_logits, lanes })
    }

    /// The pool that they work in. Nobody is served meanwhile, so they need not give way as a learner's do.
    pub(super) fn pool(&self) -> Result<rayon::ThreadPool, ModelError> {
        policy::threads::pool("train", self.n_threads(), || ())
    }
}

/// A finite number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// A temperature at which something is drawn.
pub(super) fn not_greedy(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x as f32 >= GREEDY_BELOW => Ok(x),
        _ => Err(format!("expected a number from {GREEDY_BELOW} on; below it answers are greedy")),
    }
}

/// A finite number from 0 on.
pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("expected a number from 0 on".to_owned()),
    }
}

/// A time: from none to a hundred years.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    not_negative(text).ok().filter(|s| *s <= 3.2e9).ok_or_else(|| "expected seconds, from 0 on".to_owned())
}

/// A number from 0 to below 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..1.0).contains(&x) => Ok(x),
        _ => Err("expected a number from 0 to below 1".to_owned()),
    }
}

/// A whole number from 1 on.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err("expected a whole number from 1 on".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_is_one_at_which_something_is_drawn() {
        assert_eq!(["1", "2e-5", "0.00001"].map(|text| not_greedy(text).is_ok()), [true; 3]);
        assert_eq!(
            ["0", "9e-6", "1e-40", "1e-60", "-1", "NaN", "inf"].map(|text| not_greedy(text).is_ok()),
            [false; 7]
        );
    }
}
