//! 07, 08 and 14: PPO's losses, alone and with the pretraining mix.

use candle_core::{Device, Tensor, Var};
use policy::kernels;
use ppo::loss::{self, Aggregation, PolicyClip, PolicyTokens, ValueTokens, explained_variance, pretraining_loss};

use super::{
    language_model::{surrogate, values},
    numbers::Case,
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
        case.expect("approxkl_k1", &[got.approx_kl_k1]);
        case.expect("approxkl_k2", &[got.approx_kl_k2]);
        case.expect("approxkl_k3", &[got.approx_kl_k3]);
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

fn matrix(rows: &[Vec<f64>]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

/// A linear policy, logits = W·x: the two losses' gradients in W are added before one step.
pub(super) fn ppo_ptx(case: &mut Case<'_>) {
    let weights = Var::from_tensor(&matrix(&case.rows("W"))).unwrap();
    let log_probs = |features: &str, targets: &str| {
        let logits = matrix(&case.rows(features)).matmul(&weights.as_tensor().t().unwrap()).unwrap();
        let targets: Vec<u32> = case.indices(targets).into_iter().map(|t| t as u32).collect();
        kernels::plain::log_prob_gather(&logits, &targets, &vec![1.0; targets.len()]).unwrap()
    };
    let gradient = |loss: &Tensor| values(loss.backward().unwrap().get(weights.as_tensor()).unwrap());
    let (acting, pretraining) = (log_probs("rl_features", "rl_actions"), log_probs("ptx_features", "ptx_targets"));
    let (old, advantages) = (case.flat("rl_old_logp"), case.flat("rl_advantages"));
    let mask = vec![true; old.len()];
    let coefficients = Aggregation::TokenMean.coefficients(&mask, &case.indices("rl_response_lens"));
    let tokens = PolicyTokens {
        log_probs: &values(&acting),
        old: &old,
        advantages: &advantages,
        weights: &vec![1.0; mask.len()],
        coefficients: &coefficients,
        mask: &mask,
    };
    let clip = PolicyClip { low: case.number("clip"), high: case.number("clip"), dual: None };
    let ppo = loss::policy_loss(tokens, clip);
    let gamma = case.number("gamma_ptx");
    let text = values(&pretraining);
    let ptx = pretraining_loss(&text, &vec![true; text.len()], gamma);
    let grad_ppo = gradient(&surrogate(&acting, &ppo.grad));
    let grad_scaled = gradient(&surrogate(&pretraining, &ptx.grad));
    let both = (surrogate(&acting, &ppo.grad) + surrogate(&pretraining, &ptx.grad)).unwrap();
    case.expect("ppo_loss", &[ppo.loss]);
    case.expect("ptx_loss", &[ptx.nll]);
    case.expect("combined_loss", &[ppo.loss + ptx.loss]);
    case.expect("grad_ppo", &grad_ppo);
    case.expect("grad_ptx", &grad_scaled.iter().map(|g| g / gamma).collect::<Vec<f64>>());
    case.expect("grad_combined", &gradient(&both));
    case.expect("norm_ppo", &[norm(&grad_ppo)]);
    case.expect("norm_scaled_ptx", &[norm(&grad_scaled)]);
}
