//! 20: a whole minibatch, from logits and scores to gradients in logits and values. By the oracle in f64, and in f32 by the
//! trainer's passes; rewards, advantages and returns by what makes a round's experience.

use candle_core::DType;
use config::Ppo;
use policy::kernels;
use ppo::loss::{self, Aggregation, ApproxKl, PolicyClip, PolicyTokens, ValueTokens};

use super::{
    language_model::{Logits, padded, surrogate, values},
    numbers::Case,
    rewards::missing_eos,
    rounds::Rows,
    said::{double, slopes},
};

/// One minibatch, flat over response tokens.
struct Minibatch {
    old: Vec<f64>,
    log_probs: Vec<f64>,
    old_values: Vec<f64>,
    values: Vec<f64>,
    entropies: Vec<f64>,
    advantages: Vec<f64>,
    returns: Vec<f64>,
    lengths: Vec<usize>,
}

/// Loss of the tokens `start..end` under these coefficients, with its parts.
struct Parts {
    policy: loss::PolicyLoss,
    value: loss::ValueLoss,
    entropy: f64,
}

impl Minibatch {
    fn loss(&self, range: std::ops::Range<usize>, coefficients: &[f64], case: &Case<'_>) -> Parts {
        let mask = vec![true; range.len()];
        let clip = case.number("hyper/clip");
        let tokens = PolicyTokens {
            log_probs: &self.log_probs[range.clone()],
            old: &self.old[range.clone()],
            advantages: &self.advantages[range.clone()],
            weights: &vec![1.0; range.len()],
            coefficients,
            mask: &mask,
        };
        let value_tokens = ValueTokens {
            values: &self.values[range.clone()],
            old: &self.old_values[range.clone()],
            returns: &self.returns[range.clone()],
            coefficients,
            mask: &mask,
        };
        let entropy = self.entropies[range].iter().zip(coefficients).map(|(h, c)| h * c).sum();
        Parts {
            policy: loss::policy_loss(tokens, PolicyClip { low: clip, high: clip, dual: None }),
            value: loss::value_loss(value_tokens, Some(case.number("hyper/vf_clip"))),
            entropy,
        }
    }
}

impl Parts {
    fn total(&self, case: &Case<'_>) -> f64 {
        self.policy.loss + case.number("hyper/vf_coef") * self.value.loss
            - case.number("hyper/entropy_coef") * self.entropy
    }
}

/// The rows of an input cut to the lengths of the responses.
fn trimmed(case: &Case<'_>, key: &str, lengths: &[usize]) -> Vec<f64> {
    case.rows(key).iter().zip(lengths).flat_map(|(row, n)| row[..*n].to_vec()).collect()
}

/// Rewards, advantages and returns of a round, with the outputs between them; whitened advantages and returns are handed on.
fn experience(case: &mut Case<'_>, dtype: DType, old: &[f64], reference: &[f64], lengths: &[usize]) -> [Vec<f64>; 2] {
    let width = case.rows("values_old")[0].len();
    let (gamma, lambda) = (case.number("hyper/gamma"), case.number("hyper/lambda"));
    let rule = missing_eos(case.word("hyper/missing_eos"), case.number("hyper/missing_eos_value"));
    let (scores, terminated) = (case.flat("scores"), case.mask("terminated"));
    let rows = Rows {
        old,
        reference,
        values: &trimmed(case, "values_old", lengths),
        mask: &vec![true; old.len()],
        lengths,
        scores: &scores,
        terminated: &terminated,
        groups: &vec![0; lengths.len()],
    };
    let got = rows.experience(&Ppo { gamma, lambda, ..rule }, case.number("hyper/beta"));
    case.expect_as(dtype, "old_logp", &padded(old, lengths, width));
    case.expect_as(dtype, "ref_logp", &padded(reference, lengths, width));
    case.expect_as(dtype, "rewards", &padded(&got.rewards, lengths, width));
    case.expect_as(dtype, "advantages", &padded(&got.advantages, lengths, width));
    case.expect_as(dtype, "returns", &padded(&got.returns, lengths, width));
    case.expect_as(dtype, "whitened_advantages", &padded(&got.whitened, lengths, width));
    [got.whitened, got.returns]
}

pub(super) fn full_minibatch(case: &mut Case<'_>) {
    by_the_oracle(case);
    by_the_trainers_passes(case);
}

fn by_the_oracle(case: &mut Case<'_>) {
    let logits = Logits::read(case, "logits_new", DType::F64);
    let lengths = logits.lengths();
    let frozen = |key| values(&Logits::read(case, key, DType::F64).log_probs(1.0));
    let (old, reference) = (frozen("logits_old"), frozen("logits_ref"));
    let [advantages, returns] = experience(case, DType::F64, &old, &reference, &lengths);
    let n = old.len();
    let log_probs = logits.log_probs(1.0);
    let entropies = kernels::plain::entropy(&logits.predicting(), &vec![1.0; n]).unwrap();
    let minibatch = Minibatch {
        log_probs: values(&log_probs),
        values: trimmed(case, "vpred", &lengths),
        entropies: values(&entropies),
        old,
        old_values: trimmed(case, "values_old", &lengths),
        advantages,
        returns,
        lengths,
    };
    let coefficients = Aggregation::TokenMean.coefficients(&vec![true; n], &minibatch.lengths);
    let whole = minibatch.loss(0..n, &coefficients, case);
    let bonus: Vec<f64> = coefficients.iter().map(|c| -case.number("hyper/entropy_coef") * c).collect();
    let objective = (surrogate(&log_probs, &whole.policy.grad) + surrogate(&entropies, &bonus)).unwrap();
    check(case, DType::F64, &minibatch, &whole);
    case.expect("grad_logits_new", &logits.gradient(&objective));
    micro_batches(case, &minibatch, &coefficients);
}

fn by_the_trainers_passes(case: &mut Case<'_>) {
    let logits = Logits::read(case, "logits_new", DType::F32);
    let lengths = logits.lengths();
    let frozen = |key| {
        let (said, batch) = Logits::read(case, key, DType::F32).said();
        double(&said.log_probs(&batch, 1.0).log_probs)
    };
    let (old, reference) = (frozen("logits_old"), frozen("logits_ref"));
    let [advantages, returns] = experience(case, DType::F32, &old, &reference, &lengths);
    let n = old.len();
    let coefficients = Aggregation::TokenMean.coefficients(&vec![true; n], &lengths);
    let bonus: Vec<f64> = coefficients.iter().map(|c| -case.number("hyper/entropy_coef") * c).collect();
    let mut minibatch = Minibatch {
        log_probs: Vec::new(),
        values: trimmed(case, "vpred", &lengths),
        entropies: Vec::new(),
        old,
        old_values: trimmed(case, "values_old", &lengths),
        advantages,
        returns,
        lengths,
    };
    let (said, batch) = logits.said();
    let gradients = said.backward(&batch, 1.0, |rows| {
        assert_eq!(rows.range, 0..n, "so few rows come at once");
        (minibatch.log_probs, minibatch.entropies) = (double(rows.log_probs), double(rows.entropies));
        slopes(&minibatch.loss(0..n, &coefficients, case).policy.grad, &bonus)
    });
    let whole = minibatch.loss(0..n, &coefficients, case);
    check(case, DType::F32, &minibatch, &whole);
    case.expect_f32("grad_logits_new", &said.in_logits(&gradients));
}

/// What both ways must say of the whole minibatch.
fn check(case: &mut Case<'_>, dtype: DType, minibatch: &Minibatch, whole: &Parts) {
    let width = case.rows("values_old")[0].len();
    let vf_coef = case.number("hyper/vf_coef");
    let grad_values: Vec<f64> = whole.value.grad.iter().map(|g| vf_coef * g).collect();
    let total = whole.total(case);
    case.expect_as(dtype, "new_logp", &padded(&minibatch.log_probs, &minibatch.lengths, width));
    case.expect_as(dtype, "pg_loss", &[whole.policy.loss]);
    case.expect_as(dtype, "vf_loss", &[whole.value.loss]);
    case.expect_as(dtype, "entropy", &[whole.entropy]);
    case.expect_as(dtype, "loss", &[total]);
    case.expect_as(dtype, "pg_clipfrac", &[whole.policy.clip_fraction]);
    case.expect_as(dtype, "vf_clipfrac", &[whole.value.clip_fraction]);
    let everything = vec![true; minibatch.old.len()];
    let kl = ApproxKl::of(&minibatch.log_probs, &minibatch.old, &everything);
    case.expect_as(dtype, "approxkl_k2", &[kl.k2]);
    case.expect_as(dtype, "grad_vpred", &padded(&grad_values, &minibatch.lengths, width));
}

/// The first two sequences and the last two, as two micro-batches: rightly, and with the common mistake.
fn micro_batches(case: &mut Case<'_>, minibatch: &Minibatch, coefficients: &[f64]) {
    let n = coefficients.len();
    let cut: usize = minibatch.lengths[..2].iter().sum();
    let halves = [(0..cut, &minibatch.lengths[..2]), (cut..n, &minibatch.lengths[2..])];
    let right = halves.clone().map(|(range, _)| minibatch.loss(range.clone(), &coefficients[range], case).total(case));
    let wrong = halves.map(|(range, lengths)| {
        let own = Aggregation::TokenMean.coefficients(&vec![true; range.len()], lengths);
        minibatch.loss(range, &own, case).total(case)
    });
    case.expect("micro_losses_rows_01_23", &right);
    case.expect("wrong_mean_of_micro_means", &[(wrong[0] + wrong[1]) / 2.0]);
}
