//! Do the two engines agree about the candidate?
//!
//! The trainer computed its gradients with its own arithmetic; llama.cpp will serve the file that came out. Wrong rope
//! layout, a norm's epsilon, a tied embedding, a rounding that was not meant: each would show as a difference between the
//! log-probs that the two give the same tokens, and would turn every importance weight of the next round into noise. So
//! before a candidate may serve, recorded sequences are replayed through both.
//!
//! `Δ_t = |log p_engine(y_t | x, y_<t) − log p_trainer(y_t | x, y_<t)|` at temperature 1, nats, over response tokens.
//!
//! | served weights | expected max Δ | hard limit |
//! |---|---|---|
//! | f32 | 2e-3 | 2e-2 |
//! | f16, bf16 | 2e-2 | 2e-1 |
//! | quantised | 0.5 | 5 |
//!
//! The first column is what the repository's tests hold for whole models; a gate that refused at it would refuse a healthy
//! candidate for one unlikely token, whose log-prob of −20 moves more than others. Ten times that is never rounding.

use candle_core::quantized::GgmlDType;
use policy::{
    PolicyVersion, TokenId,
    causal_lm::CausalLm,
    checkpoint::Checkpoint,
    engine::{Engine, EngineError},
    kernels::Precision,
    model_error::ModelError,
    sequence_batch::{Sequence, SequenceBatch},
};

/// Sequences replayed for one candidate.
const N_SEQUENCES: usize = 4;
/// Their tokens, together, at most: parity is a spot check, not a second pass over the round.
const N_TOKENS_MAX: usize = 2048;

/// Why parity could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum ParityError {
    /// The engine could not score.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The trainer could not score.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What the replay found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parity {
    /// Response tokens compared; 0 when there was nothing to replay.
    pub n_tokens: usize,
    /// Largest Δ, nats.
    pub max: f64,
    /// Mean Δ, nats.
    pub mean: f64,
}

/// How far the engines may be apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParityLimits {
    /// Above this, something is odd: logged.
    pub expected: f64,
    /// Above this, the candidate is refused.
    pub hard: f64,
}

impl ParityLimits {
    /// The limits for weights stored as in this checkpoint: the coarsest type of a matrix decides, or the trainer's arithmetic
    /// where it has nothing finer than bf16 to compare with.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint, precision: Precision) -> ParityLimits {
        let finest = if precision == Precision::F32 { 2e-3 } else { 0.5 };
        let expected = checkpoint.types.values().map(|kind| match kind {
            GgmlDType::F32 => 2e-3,
            GgmlDType::F16 | GgmlDType::BF16 => 2e-2,
            _ => 0.5,
        });
        let expected = expected.fold(finest, f64::max);
        ParityLimits { expected, hard: 10.0 * expected }
    }
}

/// The mean Δ over a round's tokens above which engine and trainer disagree, when `ppo.parity_gap_max` leaves it open.
///
/// 0.02 nats; 0.1 where the served weights are quantised or the trainer multiplies in bf16 (RLHF notes 5.3; first guesses).
#[must_use]
pub fn mean_limit(served: &Checkpoint, precision: Precision) -> f64 {
    let is_fine = |kind: &GgmlDType| matches!(kind, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
    if precision == Precision::F32 && served.types.values().all(is_fine) { 0.02 } else { 0.1 }
}

/// Replays recorded sequences under a resident version and under the trainer's policy.
///
/// The trainer computes in f32 where it has its weights in that ([`CausalLm::exact`]): the question is whether both have the
/// same model, and the rounding of bf16 would hide the answer.
/// - `sequences`: prompts with responses; the first few that fit are used.
///
/// # Errors
/// When either side cannot score.
pub fn measure<'a>(
    engine: &Engine,
    version: PolicyVersion,
    policy: &CausalLm,
    sequences: impl IntoIterator<Item = &'a Sequence>,
) -> Result<Parity, ParityError> {
    let policy = policy.exact();
    let mut differences = Vec::new();
    let mut n_left = N_TOKENS_MAX.min(N_SEQUENCES * engine.context_tokens() as usize);
    for sequence in sequences.into_iter().take(N_SEQUENCES) {
        let n = sequence.tokens.len();
        if n > n_left || n > engine.context_tokens() as usize || sequence.prompt_len == 0 {
            continue;
        }
        n_left -= n;
        differences.extend(compare(engine, version, &policy, sequence)?);
    }
    Ok(Parity {
        n_tokens: differences.len(),
        max: differences.iter().copied().fold(0.0, f64::max),
        mean: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
    })
}

fn compare(
    engine: &Engine,
    version: PolicyVersion,
    policy: &CausalLm,
    sequence: &Sequence,
) -> Result<Vec<f64>, ParityError> {
    let tokens: &[TokenId] = &sequence.tokens;
    let served = engine.log_probs(version, tokens)?;
    let batch = SequenceBatch::new(vec![sequence.clone()]);
    let trained = policy.frozen_log_probs(&batch, &[1.0])?.log_probs;
    // Entry i of the engine is for token i + 1, so the first response token is entry prompt_len − 1.
    let served = &served[sequence.prompt_len - 1..];
    let pairs = served.iter().zip(&trained);
    Ok(pairs
        .map(|(served, trained)| (f64::from(served.0) - f64::from(*trained)).abs())
        .map(|difference| if difference.is_nan() { f64::INFINITY } else { difference })
        .collect())
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;
    use policy::{architecture::Shape, kernels::Precision, transformer::random_checkpoint};

    use super::mean_limit;

    #[test]
    fn coarse_arithmetic_on_either_side_widens_the_limit() {
        let mut served = random_checkpoint(&Shape::llama(11, 16, 1, 2, 2, 24), 0).unwrap();
        assert_eq!((mean_limit(&served, Precision::F32), mean_limit(&served, Precision::Bf16)), (0.02, 0.1));
        served.types.insert("output.weight".to_string(), GgmlDType::Q8_0);
        assert_eq!(mean_limit(&served, Precision::F32), 0.1);
    }
}
