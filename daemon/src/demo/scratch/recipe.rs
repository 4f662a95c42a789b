//! How much of everything, and how fast it is learnt: the only place with such numbers.
//!
//! Chosen on validation prompts so that the whole build takes less than 25 minutes on two cores and leaves the supervised
//! policy mediocre: it has read the facts and knows the formats, and it has learnt its labelers' bad habits too.

use policy::{architecture::Shape, optimizer::AdamConfig, sft::SftOptions};
use reward::ranking_trainer::RankingTrainOptions;

/// Tokens of the vocabulary: about one for each word of the world.
pub(super) const VOCABULARY: usize = 1536;
/// Documents from which the vocabulary is learnt.
pub(super) const VOCABULARY_DOCUMENTS: usize = 20_000;
/// Documents of pretraining, each seen once.
pub(super) const DOCUMENTS: usize = 170_000;
/// Documents that are only measured on.
pub(crate) const HELD_OUT_DOCUMENTS: usize = 300;
/// Demonstrations.
pub(super) const DEMONSTRATIONS: usize = 16_000;
/// Prompts whose answers are ranked as they come.
pub(super) const RANKED_PROMPTS: usize = 6_000;
/// Of them, those that the scout learns from.
pub(super) const SCOUT_PROMPTS: usize = 3_000;
/// Prompts whose answers the scout has chosen.
pub(super) const TEMPTED_PROMPTS: usize = 4_000;
/// Answers that the scout chooses from.
pub(super) const TEMPTED_FROM: u32 = 16;
/// Standard deviation of the labelers' noise in grades of the 1 to 7 scale.
pub(super) const LABEL_NOISE: f64 = 0.5;
/// Validation prompts on which the stages are measured.
pub(super) const VALIDATION_PROMPTS: usize = 400;
/// Tokens of an answer at most, when answers are drawn.
pub(crate) const ANSWER_TOKENS: u32 = 64;

/// Llama, a million parameters; every matrix's rows are multiples of 32, so that Q8_0 fits. Heads are 64 wide: llama.cpp's
/// dot products on AVX-512 take 64 numbers at a time and what is shorter one by one, so 32 wide heads decode far slower.
pub(super) fn shape() -> Shape {
    Shape { context: 512, ..Shape::llama(VOCABULARY, 128, 4, 2, 2, 384) }
}

/// Pretraining.
pub(super) fn pretraining(seed: u64) -> SftOptions {
    SftOptions { epochs: 1, batch: 24, learning_rate: 3e-3, warmup_steps: 60, seed, ..SftOptions::default() }
}

/// Supervised fine-tuning with a tenth of pretraining text (InstructGPT C.3: two epochs).
pub(super) fn supervised(seed: u64) -> SftOptions {
    SftOptions {
        epochs: 2,
        batch: 32,
        learning_rate: 1e-3,
        warmup_steps: 20,
        mix_share: 0.1,
        seed,
        ..SftOptions::default()
    }
}

/// The reward model: one pass over the rankings (InstructGPT C.2: more overfits).
pub(super) fn rankings(seed: u64) -> RankingTrainOptions {
    RankingTrainOptions {
        batch: 32,
        learning_rate: 6e-4,
        warmup_steps: 10,
        adam: AdamConfig { eps: 1e-8, ..AdamConfig::default() },
        seed,
        ..RankingTrainOptions::default()
    }
}
