//! How much of everything, and how fast it is learnt: the only place with such numbers.
//!
//! Rates and sizes were chosen on seeds from 101 on; what is reported begins at seed 1.

use config::{Config, ConfigError, Sources};
use policy::{architecture::Shape, optimizer::AdamConfig, sft::SftOptions};
use reward::ranking_trainer::RankingTrainOptions;

use super::world::VOCAB;

/// A width of model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    hidden: usize,
}

/// What is tuned.
pub(super) const SMALL: Size = Size { hidden: 64 };
/// Four times as wide.
pub(super) const LARGE: Size = Size { hidden: 256 };

impl Size {
    /// Llama, two layers.
    pub(super) fn shape(self) -> Shape {
        Shape::llama(VOCAB, self.hidden, 2, 4, 4, 2 * self.hidden)
    }

    /// Wider models want smaller steps: the rate falls with the width (Yang et al., arXiv 2203.03466, for Adam).
    fn rate(self, of_small: f64) -> f64 {
        of_small * SMALL.hidden as f64 / self.hidden as f64
    }
}

/// Sizes of everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Recipe {
    /// Pretraining documents, each seen once.
    pub(super) documents: usize,
    /// Documents that are only measured on.
    pub(super) held_out_documents: usize,
    /// Demonstrations.
    pub(super) demonstrations: usize,
    /// Ranked prompts of the weak, the middling and the strong reward model.
    pub(super) rankings: [usize; 3],
    /// Rankings on which reward models are measured.
    pub(super) held_out_rankings: usize,
    /// PPO rounds.
    pub(super) rounds: u64,
    /// Held-out prompts that each model answers once.
    pub(super) held_out_prompts: usize,
}

impl Recipe {
    /// This share of the full sizes, `(0, 1]`; the numbers of measurements fall with its root only.
    pub(super) fn of_share(share: f64) -> Recipe {
        let cut = |n: usize, share: f64| ((n as f64 * share).round() as usize).max(1);
        let root = share.sqrt();
        Recipe {
            documents: cut(8000, share),
            held_out_documents: cut(400, root),
            demonstrations: cut(20_000, share),
            rankings: [150, 1000, 6000].map(|n| cut(n, share)),
            held_out_rankings: cut(500, root),
            rounds: cut(160, share) as u64,
            held_out_prompts: cut(600, root),
        }
    }
}

/// Pretraining.
pub(super) fn pretraining(size: Size, seed: u64) -> SftOptions {
    let learning_rate = size.rate(4e-3);
    SftOptions { epochs: 1, batch: 32, learning_rate, warmup_steps: 20, seed, ..SftOptions::default() }
}

/// Supervised fine-tuning; `mix_share` is 0.1 for what PPO starts from (InstructGPT C.3: two epochs).
pub(super) fn supervised(size: Size, mix_share: f64, seed: u64) -> SftOptions {
    let learning_rate = size.rate(4e-3);
    SftOptions { epochs: 2, batch: 32, learning_rate, warmup_steps: 10, mix_share, seed, ..SftOptions::default() }
}

/// A reward model: four passes over the rankings. InstructGPT (C.2) takes one, because more overfits; but its models know
/// language when they begin, and these must still learn to compare an answer with its prompt.
pub(super) fn rankings(seed: u64) -> RankingTrainOptions {
    RankingTrainOptions {
        epochs: 4,
        batch: 16,
        learning_rate: 2e-3,
        warmup_steps: 10,
        adam: AdamConfig { eps: 1e-8, ..AdamConfig::default() },
        seed,
        ..RankingTrainOptions::default()
    }
}

/// PPO: honed's defaults but for what a toy of a hundred thousand weights needs.
pub(super) fn ppo(sets: Vec<String>) -> Result<config::Ppo, ConfigError> {
    let toy = [
        "ppo.rollouts_per_update=128",
        "ppo.minibatch=32",
        "ppo.dtype=f32",
        "ppo.policy_learning_rate=5e-4",
        "ppo.value_learning_rate=1e-3",
        "ppo.warmup_updates=5",
        "ppo.ptx_examples=2",
    ];
    let sets = toy.into_iter().map(str::to_owned).chain(sets).collect();
    // Neither the environment nor a file: the same command must give the same numbers everywhere.
    Ok(Config::load(Sources { file: None, env: Vec::new(), sets })?.ppo)
}
