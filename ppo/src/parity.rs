//! Do the two engines agree about the candidate?
//!
//! The trainer computed its gradients with its own arithmetic; the engine will serve the file that came out. Wrong rope
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
/// Their tokens, together, at most, but for one sequence where none is so short: parity is a spot check, not a second pass over
/// the round.
const N_TOKENS_MAX: usize = 2048;
/// Response tokens that are read of such a one, after a prompt that leaves no room for them.
const N_RESPONSE_MIN: usize = 64;

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
/// - `sequences`: prompts with responses; the first few that fit are used, and of a round in which none does the beginning of
///   one.
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
    for sequence in replayed(sequences, engine.context_tokens() as usize) {
        differences.extend(compare(engine, version, &policy, &sequence)?);
    }
    Ok(Parity {
        n_tokens: differences.len(),
        max: differences.iter().copied().fold(0.0, f64::max),
        mean: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
    })
}

/// The sequences that are replayed in an engine of this context: none only where no prompt leaves room for a response.
fn replayed<'a>(sequences: impl IntoIterator<Item = &'a Sequence>, context_tokens: usize) -> Vec<Sequence> {
    let is_usable = |s: &&Sequence| s.prompt_len > 0 && s.prompt_len < s.tokens.len().min(context_tokens);
    let usable: Vec<&Sequence> = sequences.into_iter().filter(is_usable).collect();
    let (mut chosen, mut n_left) = (Vec::new(), N_TOKENS_MAX);
    for sequence in &usable {
        let n = sequence.tokens.len();
        if chosen.len() < N_SEQUENCES && n <= n_left.min(context_tokens) {
            n_left -= n;
            chosen.push((*sequence).clone());
        }
    }
    if chosen.is_empty() {
        let shortest = usable.iter().min_by_key(|sequence| sequence.prompt_len);
        chosen.extend(shortest.map(|sequence| beginning(sequence, context_tokens)));
    }
    chosen
}

/// As much of a long sequence as is read, and at least one token of its response.
fn beginning(sequence: &Sequence, context_tokens: usize) -> Sequence {
    let n = N_TOKENS_MAX.max(sequence.prompt_len + N_RESPONSE_MIN).min(context_tokens).min(sequence.tokens.len());
    Sequence { tokens: sequence.tokens[..n].to_vec(), prompt_len: sequence.prompt_len }
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
    use policy::{
        TokenId, architecture::Shape, kernels::Precision, sequence_batch::Sequence, transformer::random_checkpoint,
    };

    use super::{mean_limit, replayed};

    /// Goal: long text does not go unchecked. Method: prompts and responses of these lengths, before an engine of this context; what
    /// is replayed of them, as length of the prompt and of all.
    #[test]
    fn something_is_replayed_however_long_the_sequences_are() {
        let replayed_of = |lengths: &[(usize, usize)], context: usize| -> Vec<(usize, usize)> {
            let of = |&(prompt, response): &(usize, usize)| {
                Sequence::new(&vec![TokenId(1); prompt], &vec![TokenId(2); response])
            };
            let sequences: Vec<Sequence> = lengths.iter().map(of).collect();
            replayed(&sequences, context).iter().map(|s| (s.prompt_len, s.tokens.len())).collect()
        };
        assert_eq!(replayed_of(&[(10, 40); 8], 4096), [(10, 50); 4], "a few of them");
        assert_eq!(replayed_of(&[(10, 3000), (10, 1000), (10, 1100), (10, 900)], 4096), [(10, 1010), (10, 910)]);
        assert_eq!(replayed_of(&[(500, 3000), (100, 3000), (300, 3000)], 8192), [(100, 2048)], "the beginning of one");
        assert_eq!(replayed_of(&[(5000, 3000)], 8192), [(5000, 5064)], "with a part of its response");
        assert_eq!(replayed_of(&[(5000, 3)], 8192), [(5000, 5003)]);
        assert_eq!(replayed_of(&[(10, 40)], 24), [(10, 24)], "the engine's context has become smaller");
        assert_eq!(replayed_of(&[(30, 40), (0, 9)], 24), [], "there is nothing that it could say of these");
    }

    #[test]
    fn coarse_arithmetic_on_either_side_widens_the_limit() {
        let mut served = random_checkpoint(&Shape::llama(11, 16, 1, 2, 2, 24), 0).unwrap();
        assert_eq!((mean_limit(&served, Precision::F32), mean_limit(&served, Precision::Bf16)), (0.02, 0.1));
        served.types.insert("output.weight".to_string(), GgmlDType::Q8_0);
        assert_eq!(mean_limit(&served, Precision::F32), 0.1);
    }
}
