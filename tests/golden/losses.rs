//! 07, 08 and 14: PPO's losses, alone and with the pretraining mix.

use policy::{
    optimizer::Gradients,
    sequence_batch::{Sequence, SequenceBatch},
    sft,
};
use ppo::loss::{self, Aggregation, PolicyClip, PolicyTokens, ValueTokens, explained_variance};

use super::{
    numbers::Case,
    said::{Said, double, slopes},
};

pub(super) fn policy_loss(case: &mut Case<'_>) {
    let (log_probs, old, advantages) = (case.flat("new_logp"), case.flat("old_logp"), case.flat("advantages"));
    let (mask, lengths) = (case.mask("mask"), case.lengths("mask"));
    let clip =
        PolicyClip { low: case.number("clip_low"), high: case.number("clip_high"), dual: case.optional("dual_clip") };
    let aggregations = [
        ("token_mean", Aggregation::TokenMean),
        ("seq_mean_token_sum", Aggregation::SequenceMeanTokenSum),
        ("seq_mean_token_mean", Aggregation::SequenceMeanTokenMean),
        ("const_norm", Aggregation::ConstantNorm(case.number("const_norm_len"))),
    ];
    for (name, aggregation) in aggregations {
        let coefficients = aggregation.coefficients(&mask, &lengths);
        let tokens = PolicyTokens {
            log_probs: &log_probs,
            old: &old,
            advantages: &advantages,
            weights: &vec![1.0; mask.len()],
            coefficients: &coefficients,
            mask: &mask,
        };
        let got = loss::policy_loss(tokens, clip);
        case.expect(&format!("loss/{name}"), &[got.loss]);
        case.expect(&format!("grad_new_logp/{name}"), &got.grad);
        case.expect("ratio", &got.ratios);
        case.expect("per_token_loss", &got.per_token);
        case.expect("clipfrac", &[got.clip_fraction]);
        case.expect("dual_clipfrac", &[got.dual_clip_fraction]);
        let kl = loss::ApproxKl::of(tokens.log_probs, tokens.old, tokens.mask);
        case.expect("approxkl_k1", &[kl.k1]);
        case.expect("approxkl_k2", &[kl.k2]);
        case.expect("approxkl_k3", &[kl.k3]);
    }
}

pub(super) fn value_loss(case: &mut Case<'_>) {
    let (predicted, old, returns) = (case.flat("vpred"), case.flat("old_values"), case.flat("returns"));
    let (mask, lengths) = (case.mask("mask"), case.lengths("mask"));
    let coefficients = Aggregation::TokenMean.coefficients(&mask, &lengths);
    let tokens =
        ValueTokens { values: &predicted, old: &old, returns: &returns, coefficients: &coefficients, mask: &mask };
    let got = loss::value_loss(tokens, case.optional("clip"));
    case.expect("loss", &[got.loss]);
    case.expect("grad_vpred", &got.grad);
    case.expect("clipfrac", &[got.clip_fraction]);
    case.expect("explained_variance_old_values", &[explained_variance(&old, &returns, &mask)]);
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// A policy that is linear in features: logits = W·x.
struct Linear {
    weights: Vec<Vec<f64>>,
    /// Of the rollouts, then of the text.
    features: Vec<Vec<f64>>,
    said: Said,
}

impl Linear {
    fn read(case: &Case<'_>) -> Linear {
        let weights = case.rows("W");
        let features = [case.rows("rl_features"), case.rows("ptx_features")].concat();
        let product = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let logits: Vec<f64> = features.iter().flat_map(|x| weights.iter().map(|row| product(row, x))).collect();
        Linear { said: Said::new(&logits, weights.len()), weights, features }
    }

    /// The choices that these rows of features lead to, each a response of one token.
    fn choices(&self, start: usize, targets: &[usize]) -> SequenceBatch {
        let choice = |(row, target): (usize, &usize)| {
            Sequence::text(vec![self.said.token(row, 0), self.said.token(row + 1, *target)])
        };
        SequenceBatch::new((start..).zip(targets).map(choice).collect())
    }

    /// d loss / dW.
    fn in_weights(&self, gradients: &Gradients) -> Vec<f64> {
        let (n_out, n_in) = (self.weights.len(), self.features[0].len());
        let mut sum = vec![0.0; n_out * n_in];
        for (slopes, x) in self.said.in_logits(gradients).chunks(n_out).zip(&self.features) {
            for (i, w) in sum.iter_mut().enumerate() {
                *w += slopes[i / n_in] * x[i % n_in];
            }
        }
        sum
    }
}

/// The two losses' gradients are added before one step, as in `ppo::update::pretraining`, whose own tests hold it to this sum:
/// the policy loss through a pass, the text through fine-tuning's loss.
pub(super) fn ppo_ptx(case: &mut Case<'_>) {
    let linear = Linear::read(case);
    let (old, advantages) = (case.flat("rl_old_logp"), case.flat("rl_advantages"));
    let mask = vec![true; old.len()];
    let coefficients = Aggregation::TokenMean.coefficients(&mask, &case.indices("rl_response_lens"));
    let clip = PolicyClip { low: case.number("clip"), high: case.number("clip"), dual: None };
    let mut ppo_loss = 0.0;
    let actions = linear.choices(0, &case.indices("rl_actions"));
    let ppo = linear.said.backward(&actions, 1.0, |rows| {
        let range = rows.range.clone();
        let tokens = PolicyTokens {
            log_probs: &double(rows.log_probs),
            old: &old[range.clone()],
            advantages: &advantages[range.clone()],
            weights: &vec![1.0; range.len()],
            coefficients: &coefficients[range.clone()],
            mask: &mask[range],
        };
        let loss = loss::policy_loss(tokens, clip);
        ppo_loss += loss.loss;
        slopes(&loss.grad, &[])
    });
    let texts = linear.choices(old.len(), &case.indices("ptx_targets"));
    let (nll, mut ptx) = sft::loss_and_gradients(linear.said.model(), &texts.sequences, 1024).unwrap();
    let gamma = case.number("gamma_ptx");
    case.expect_f32("ppo_loss", &[ppo_loss]);
    case.expect_f32("ptx_loss", &[nll]);
    case.expect_f32("combined_loss", &[ppo_loss + gamma * nll]);
    case.expect_f32("grad_ppo", &linear.in_weights(&ppo));
    case.expect_f32("grad_ptx", &linear.in_weights(&ptx));
    ptx.scale(gamma).unwrap();
    case.expect_f32("norm_ppo", &[norm(&linear.in_weights(&ppo))]);
    case.expect_f32("norm_scaled_ptx", &[norm(&linear.in_weights(&ptx))]);
    let mut both = ppo;
    both.merge(&ptx).unwrap();
    case.expect_f32("grad_combined", &linear.in_weights(&both));
}
