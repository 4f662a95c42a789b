//! 20: a whole minibatch, from logits and scores to gradients in logits and values.

use candle_core::DType;
use policy::kernels;
use ppo::{
    gae::{GaeOptions, gae},
    loss::{self, Aggregation, PolicyClip, PolicyTokens, ValueTokens},
    masked::{self, Whitening},
    token_rewards::{ScoreRule, token_rewards},
};

use super::{
    language_model::{Logits, padded, surrogate, values},
    numbers::Case,
    rewards::missing_eos,
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

/// Rewards, advantages and returns as the experience is made, with the outputs between them.
fn experience(
    case: &mut Case<'_>,
    old: &[f64],
    reference: &[f64],
    old_values: &[f64],
    lengths: &[usize],
) -> [Vec<f64>; 2] {
    let width = case.rows("values_old")[0].len();
    let rule = ScoreRule {
        clip: None,
        missing_eos: missing_eos(case.word("hyper/missing_eos"), case.number("hyper/missing_eos_value")),
    };
    let options = GaeOptions { gamma: case.number("hyper/gamma"), lambda: case.number("hyper/lambda") };
    let (mut rewards, mut advantages, mut returns) = (Vec::new(), Vec::new(), Vec::new());
    let scores = case.flat("scores").into_iter().zip(case.mask("terminated"));
    let sequences =
        masked::split(old, lengths).zip(masked::split(reference, lengths)).zip(masked::split(old_values, lengths));
    for (((old, reference), values), (score, terminated)) in sequences.zip(scores) {
        let mask = vec![true; old.len()];
        let paid = token_rewards(old, reference, &mask, rule.apply(score, terminated), case.number("hyper/beta"));
        let got = gae(&paid, values, &mask, 0.0, options);
        rewards.extend(paid);
        advantages.extend(got.advantages);
        returns.extend(got.returns);
    }
    let whitened = masked::whiten(&advantages, &vec![true; advantages.len()], Whitening::default());
    case.expect("old_logp", &padded(old, lengths, width));
    case.expect("ref_logp", &padded(reference, lengths, width));
    case.expect("rewards", &padded(&rewards, lengths, width));
    case.expect("advantages", &padded(&advantages, lengths, width));
    case.expect("returns", &padded(&returns, lengths, width));
    case.expect("whitened_advantages", &padded(&whitened, lengths, width));
    [whitened, returns]
}

pub(super) fn full_minibatch(case: &mut Case<'_>) {
    let logits = Logits::read(case, "logits_new", DType::F64);
    let lengths = logits.lengths();
    let frozen = |key| values(&Logits::read(case, key, DType::F64).log_probs(1.0));
    let (old, reference) = (frozen("logits_old"), frozen("logits_ref"));
    let old_values = trimmed(case, "values_old", &lengths);
    let [advantages, returns] = experience(case, &old, &reference, &old_values, &lengths);
    let n = old.len();
    let log_probs = logits.log_probs(1.0);
    let entropies = kernels::plain::entropy(&logits.predicting(), &vec![1.0; n]).unwrap();
    let minibatch = Minibatch {
        log_probs: values(&log_probs),
        values: trimmed(case, "vpred", &lengths),
        entropies: values(&entropies),
        old,
        old_values,
        advantages,
        returns,
        lengths,
    };
    let coefficients = Aggregation::TokenMean.coefficients(&vec![true; n], &minibatch.lengths);
    let whole = minibatch.loss(0..n, &coefficients, case);
    let bonus: Vec<f64> = coefficients.iter().map(|c| -case.number("hyper/entropy_coef") * c).collect();
    let objective = (surrogate(&log_probs, &whole.policy.grad) + surrogate(&entropies, &bonus)).unwrap();
    let width = case.rows("values_old")[0].len();
    let vf_coef = case.number("hyper/vf_coef");
    let grad_values: Vec<f64> = whole.value.grad.iter().map(|g| vf_coef * g).collect();
    case.expect("new_logp", &padded(&minibatch.log_probs, &minibatch.lengths, width));
    case.expect("pg_loss", &[whole.policy.loss]);
    case.expect("vf_loss", &[whole.value.loss]);
    case.expect("entropy", &[whole.entropy]);
    case.expect("loss", &[whole.total(case)]);
    case.expect("pg_clipfrac", &[whole.policy.clip_fraction]);
    case.expect("vf_clipfrac", &[whole.value.clip_fraction]);
    case.expect("approxkl_k2", &[whole.policy.approx_kl_k2]);
    case.expect("grad_logits_new", &logits.gradient(&objective));
    case.expect("grad_vpred", &padded(&grad_values, &minibatch.lengths, width));
    micro_batches(case, &minibatch, &coefficients);
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
