//! 02 to 06: from log-probs and scores to whitened advantages.

use config::Ppo;
use ppo::{
    gae::GaeOptions,
    kl::{self, AdaptiveKl, KlEstimator},
    masked::{self, Variance, Whitening},
};

use super::{
    numbers::Case,
    rounds::{self, Rows},
};

const ESTIMATORS: [(&str, KlEstimator); 3] = [("1", KlEstimator::K1), ("2", KlEstimator::K2), ("3", KlEstimator::K3)];

pub(super) fn kl_estimators(case: &mut Case<'_>) {
    if case.has("logits_p") {
        return exact_expectations(case);
    }
    let (log_probs, reference, mask) = (case.flat("logp"), case.flat("ref_logp"), case.mask("mask"));
    let mut means = Vec::new();
    for (n, estimator) in ESTIMATORS {
        let values = kl::per_token(estimator, &log_probs, &reference, &mask);
        let slopes: Vec<f64> = (0..mask.len())
            .map(|t| if mask[t] { estimator.gradient(log_probs[t] - reference[t]) } else { 0.0 })
            .collect();
        means.push(masked::mean(&values, &mask));
        case.expect(&format!("k{n}"), &values);
        case.expect(&format!("dk{n}_dlogp"), &slopes);
    }
    case.expect("token_mean", &means);
    let per_sequence = kl::per_sequence(&log_probs, &reference, &mask, &case.lengths("mask"));
    let mean = per_sequence.iter().sum::<f64>() / per_sequence.len() as f64;
    case.expect("seq_sum_k1_mean_over_seqs", &[mean]);
}

/// Expectations over a whole distribution: what each estimator is worth as a loss and as a reward.
fn exact_expectations(case: &mut Case<'_>) {
    let p = softmax(&case.flat("logits_p"));
    let q = softmax(&case.flat("logits_q"));
    let gaps: Vec<f64> = p.iter().zip(&q).map(|(p, q)| p.ln() - q.ln()).collect();
    let expectation = |f: &dyn Fn(f64) -> f64| p.iter().zip(&gaps).map(|(p, d)| p * f(*d)).sum::<f64>();
    // d ln p_j / d logit_i = [i = j] − p_i, so the expected gradient of Σ_j p_j·w_j·ln p_j with constant w is:
    let gradient = |weight: &dyn Fn(f64) -> f64| {
        let mean = expectation(weight);
        p.iter().zip(&gaps).map(|(p, d)| p * (weight(*d) - mean)).collect::<Vec<f64>>()
    };
    case.expect("reverse_kl_p_q", &[ppo::optimum::divergence(&p, &q)]);
    case.expect("forward_kl_q_p", &[ppo::optimum::divergence(&q, &p)]);
    for (n, estimator) in ESTIMATORS {
        case.expect(&format!("E_k{n}"), &[expectation(&|d| estimator.value(d))]);
        case.expect(&format!("E_grad_k{n}_as_loss"), &gradient(&|d| estimator.gradient(d)));
    }
    let reverse = gradient(&|d| KlEstimator::K2.gradient(d));
    let forward = gradient(&|d| KlEstimator::K3.gradient(d));
    case.expect("grad_reverse_kl", &reverse);
    case.expect("grad_forward_kl", &forward);
    case.expect("E_k1_as_reward_times_score", &gradient(&|d| KlEstimator::K1.value(d)));
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|l| l.exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// The knobs of a rule that a case names.
pub(super) fn missing_eos(word: &str, value: f64) -> Ppo {
    let word = match word {
        "none" => "keep",
        "replace" | "subtract" => word,
        other => panic!("unknown missing-EOS rule {other}"),
    };
    let (missing_eos, missing_eos_score, missing_eos_penalty) = (word.to_owned(), value, value);
    Ppo { missing_eos, missing_eos_score, missing_eos_penalty, ..rounds::knobs() }
}

pub(super) fn token_rewards(case: &mut Case<'_>) {
    let (log_probs, reference, mask) = (case.flat("logp"), case.flat("ref_logp"), case.mask("mask"));
    let lengths = case.lengths("mask");
    let (scores, terminated) = (case.flat("scores"), case.mask("terminated"));
    let rows = Rows {
        old: &log_probs,
        reference: &reference,
        values: &vec![0.0; mask.len()],
        mask: &mask,
        lengths: &lengths,
        scores: &scores,
        terminated: &terminated,
        groups: &vec![0; lengths.len()],
    };
    let score_clip = case.optional("score_clip").unwrap_or(f64::INFINITY);
    let config = Ppo { score_clip, ..missing_eos(case.word("missing_eos"), case.number("missing_eos_value")) };
    let got = rows.experience(&config, case.number("beta"));
    let totals: Vec<f64> = (0..lengths.len()).map(|i| got.rewards[got.range(i)].iter().sum()).collect();
    let penalties: Vec<f64> = totals.iter().zip(&got.scores).map(|(total, score)| total - score).collect();
    let kl = kl::per_sequence(&log_probs, &reference, &mask, &lengths);
    case.expect("processed_scores", &got.scores);
    case.expect("rewards", &rows.spread(&got.rewards));
    case.expect("mean_kl", &[kl.iter().sum::<f64>() / kl.len() as f64]);
    case.expect("kl_per_seq", &kl);
    case.expect("non_score_reward_per_seq", &penalties);
    case.expect("total_per_seq", &totals);
}

pub(super) fn adaptive_kl(case: &mut Case<'_>) {
    let mut controller = AdaptiveKl::new(case.number("init_beta"), case.number("target"), case.whole("horizon"));
    let n_episodes = case.whole("n_steps") as usize;
    let observed = case.flat("observed_mean_seq_kl");
    let coefs: Vec<f64> = observed
        .into_iter()
        .map(|kl| {
            controller.update(kl, n_episodes);
            controller.coef()
        })
        .collect();
    case.expect("beta_after_each", &coefs);
}

pub(super) fn gae(case: &mut Case<'_>) {
    let (rewards, values, mask) = (case.flat("rewards"), case.flat("values"), case.mask("mask"));
    let lengths = case.lengths("mask");
    let options = GaeOptions { gamma: case.number("gamma"), lambda: case.number("lambda") };
    let (mut advantages, mut returns) = (Vec::new(), Vec::new());
    let sequences = masked::split(&rewards, &lengths)
        .zip(masked::split(&values, &lengths))
        .zip(masked::split(&mask, &lengths))
        .zip(case.flat("bootstrap_values"));
    for (((rewards, values), mask), bootstrap) in sequences {
        let got = ppo::gae::gae(rewards, values, mask, bootstrap, options);
        advantages.extend(got.advantages);
        returns.extend(got.returns);
    }
    case.expect("advantages", &advantages);
    case.expect("returns", &returns);
}

pub(super) fn whiten(case: &mut Case<'_>) {
    let (x, mask) = (case.flat("x"), case.mask("mask"));
    assert_eq!(case.number("eps"), masked::WHITEN_EPS);
    for (ddof, variance) in [("0", Variance::Population), ("1", Variance::Sample)] {
        for (shift, removes_mean) in [("true", true), ("false", false)] {
            let whitened = masked::whiten(&x, &mask, Whitening { removes_mean, variance });
            case.expect(&format!("shift_mean_{shift}_ddof{ddof}"), &whitened);
        }
        case.expect(&format!("var_ddof{ddof}"), &[masked::variance(&x, &mask, variance)]);
    }
    case.expect("mean", &[masked::mean(&x, &mask)]);
}
