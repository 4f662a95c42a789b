//! 13: advantages without a value model, from the experience of a round.

use config::Ppo;
use ppo::{experience::Experience, group};

use super::{
    numbers::Case,
    rounds::{Rows, knobs},
};

/// What production adds to GRPO's standard deviation.
const GRPO_EPS: f64 = 1e-4;

fn by(rows: &Rows<'_>, estimator: &str, gamma: f64, kl_coef: f64) -> Experience {
    rows.experience(&Ppo { advantage_estimator: estimator.to_owned(), gamma, ..knobs() }, kl_coef)
}

/// The advantage of each response, which is that of its tokens.
fn per_response(experience: &Experience) -> Vec<f64> {
    (0..experience.lengths.len()).map(|i| experience.advantages[experience.range(i).start]).collect()
}

pub(super) fn group_advantages(case: &mut Case<'_>) {
    let (scores, groups) = (case.flat("scores"), case.indices("groups"));
    if !case.has("logp") {
        return of_scores(case, &scores, &groups);
    }
    let (log_probs, reference, mask) = (case.flat("logp"), case.flat("ref_logp"), case.mask("mask"));
    let rows = Rows {
        old: &log_probs,
        reference: &reference,
        values: &vec![0.0; mask.len()],
        mask: &mask,
        lengths: &case.lengths("mask"),
        scores: &scores,
        terminated: &vec![true; scores.len()],
        groups: &groups,
    };
    let (beta, gamma) = (case.number("beta"), case.number("gamma"));
    let reinforce = by(&rows, "reinforce_pp", gamma, beta);
    case.expect("reward_to_go", &rows.spread(&reinforce.returns));
    case.expect("reinforce_pp", &rows.spread(&reinforce.whitened));
    // The file pays no KL in the reward here: it is a term of the loss.
    let [name, kl_in, k2] = ["reinforce_pp_baseline", "loss", "k2"].map(str::to_owned);
    let in_loss = Ppo { advantage_estimator: name, kl_in, kl_estimator: k2, gamma, ..knobs() };
    let baseline = rows.experience(&in_loss, beta);
    case.expect("reinforce_pp_baseline", &rows.spread(&baseline.whitened));
    case.expect("rloo_with_kl", &per_response(&by(&rows, "rloo", gamma, beta)));
}

/// Responses of one token without divergence: each is worth its score.
fn of_scores(case: &mut Case<'_>, scores: &[f64], groups: &[usize]) {
    let n = scores.len();
    let rows = Rows {
        old: &vec![-1.0; n],
        reference: &vec![-1.0; n],
        values: &vec![0.0; n],
        mask: &vec![true; n],
        lengths: &vec![1; n],
        scores,
        terminated: &vec![true; n],
        groups,
    };
    assert_eq!(case.whole("std_ddof"), 1);
    let eps = case.number("std_eps");
    case.expect("rloo", &per_response(&by(&rows, "rloo", 1.0, 0.05)));
    case.expect("dr_grpo", &per_response(&by(&rows, "dr_grpo", 1.0, 0.05)));
    case.expect("grpo", &group::grpo(scores, groups, eps));
    if eps == GRPO_EPS {
        case.expect("grpo", &per_response(&by(&rows, "grpo", 1.0, 0.05)));
    }
}
