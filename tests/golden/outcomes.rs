//! 21 and 22: metrics, and the optimum that a trainer must find.

use ppo::{metrics, optimum as exact};

use super::numbers::Case;

pub(super) fn metrics(case: &mut Case<'_>) {
    if case.has("score_gap_a_minus_b") {
        let gaps = case.flat("score_gap_a_minus_b");
        let bins = case.whole("bins") as usize;
        let got = metrics::pair_agreement(&gaps, &case.mask("a_preferred"), bins).expect("there are pairs");
        case.expect("accuracy", &[got.accuracy]);
        case.expect("log_loss", &[got.log_loss]);
        case.expect("ece", &[got.calibration_error]);
    } else if case.has("wins") {
        let n = |key| case.whole(key) as usize;
        let got = metrics::win_rate(n("wins"), n("ties"), n("losses")).expect("there are comparisons");
        case.expect("win_rate", &[got.rate]);
        case.expect("stderr", &[got.stderr]);
        case.expect("ci95", &[got.ci95.0, got.ci95.1]);
    } else if case.has("lengths") {
        case.expect("pearson", &[metrics::pearson(&case.flat("lengths"), &case.flat("rewards"))]);
    } else {
        over_optimisation(case);
    }
}

fn over_optimisation(case: &mut Case<'_>) {
    let (alpha, beta) = (case.number("alpha"), case.number("beta"));
    let curve = |f: fn(f64, f64, f64) -> f64| case.flat("d").iter().map(|d| f(*d, alpha, beta)).collect::<Vec<f64>>();
    let (bon, rl) = (curve(metrics::gold_reward_best_of_n), curve(metrics::gold_reward_rl));
    let kl: Vec<f64> = case.indices("n").iter().map(|n| metrics::kl_best_of_n(*n as u64)).collect();
    case.expect("r_bon", &bon);
    case.expect("r_rl", &rl);
    case.expect("peak_d_bon", &[metrics::peak_best_of_n(alpha, beta)]);
    case.expect("peak_d_rl", &[metrics::peak_rl(alpha, beta)]);
    case.expect("kl_bon", &kl);
}

pub(super) fn optimum(case: &mut Case<'_>) {
    let (reference, rewards, beta) = (case.flat("ref_probs"), case.flat("rewards"), case.number("beta"));
    let best = exact::kl_regularised_optimum(&reference, &rewards, beta);
    case.expect("optimal_probs", &best.probs);
    case.expect("log_Z", &[best.log_normaliser]);
    case.expect("optimal_objective", &[best.objective]);
    case.expect("kl_at_optimum", &[best.kl]);
    case.expect("expected_reward_at_optimum", &[best.expected_reward]);
    case.expect("objective_of_ref", &[exact::objective(&reference, &reference, &rewards, beta)]);
}
