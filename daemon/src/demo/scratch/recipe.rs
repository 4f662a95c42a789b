//! How much of everything, and how fast it is learnt: the only place with such numbers.
//!
//! Chosen on validation prompts so that the whole build takes less than 25 minutes on two cores and leaves the supervised
//! policy mediocre: it has read the facts and knows the formats, and it has learnt its labelers' bad habits too.

use policy::{architecture::Shape, sft::SftOptions};

/// Tokens of the vocabulary: about one for each word of the world.
pub(super) const VOCABULARY: usize = 1536;
/// Documents from which the vocabulary is learnt.
pub(super) const VOCABULARY_DOCUMENTS: usize = 20_000;
/// Documents of pretraining, each seen once.
pub(super) const DOCUMENTS: usize = 24_000;
/// Documents that are only measured on.
pub(crate) const HELD_OUT_DOCUMENTS: usize = 300;
/// Demonstrations.
pub(super) const DEMONSTRATIONS: usize = 5_000;
/// Prompts that are ranked.
pub(super) const RANKED_PROMPTS: usize = 2_500;
/// Standard deviation of the labelers' noise in grades of the 1 to 7 scale.
pub(super) const LABEL_NOISE: f64 = 0.5;
/// Validation prompts on which the stages are measured.
pub(super) const VALIDATION_PROMPTS: usize = 400;
/// Tokens of an answer at most, when answers are drawn.
pub(crate) const ANSWER_TOKENS: u32 = 64;

/// Llama, a million parameters; every matrix's rows are multiples of 32, so that Q8_0 fits.
pub(super) fn shape() -> Shape {
    Shape {
        context: 512,
        ..Shape::llama(VOCABULARY, 128, 4, 4, 4, 384)
    }
}

/// Pretraining.
pub(super) fn pretraining(seed: u64) -> SftOptions {
    SftOptions {
        epochs: 1,
        batch: 48,
        learning_rate: 4e-3,
        warmup_steps: 40,
        seed,
        ..SftOptions::default()
    }
}

/// Supervised fine-tuning with a tenth of pretraining text (InstructGPT C.3: two epochs).
pub(super) fn supervised(seed: u64) -> SftOptions {
    SftOptions {
        epochs: 2,
        batch: 64,
        learning_rate: 1e-3,
        warmup_steps: 20,
        mix_share: 0.1,
        seed,
        ..SftOptions::default()
    }
}

/// Learning rate of the reward model: up over 20 steps, then a cosine to a tenth.
pub(super) fn reward_rate(step: usize, n_steps: usize) -> f64 {
    let progress = step as f64 / n_steps as f64;
    let warm = ((step + 1) as f64 / 20.0).min(1.0);
    5e-4 * warm * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * progress).cos()))
}
