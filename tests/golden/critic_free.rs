//! 13: advantages without a value model.

use ppo::{group, kl, masked, token_rewards::token_rewards};

use super::numbers::Case;

pub(super) fn group_advantages(case: &mut Case<'_>) {
    let (scores, groups) = (case.flat("scores"), case.indices("groups"));
    if !case.has("logp") {
        assert_eq!(case.whole("std_ddof"), 1);
        let eps = case.number("std_eps");
        case.expect("rloo", &group::rloo(&scores, &groups));
        case.expect("grpo", &group::grpo(&scores, &groups, eps));
        return case.expect("dr_grpo", &group::dr_grpo(&scores, &groups));
    }
    let (log_probs, reference, mask) = (case.flat("logp"), case.flat("ref_logp"), case.mask("mask"));
    let lengths = case.lengths("mask");
    let (beta, gamma) = (case.number("beta"), case.number("gamma"));
    let rewards: Vec<f64> = masked::split(&log_probs, &lengths)
        .zip(masked::split(&reference, &lengths))
        .zip(masked::split(&mask, &lengths))
        .zip(&scores)
        .flat_map(|(((l, r), m), s)| token_rewards(l, r, m, *s, beta))
        .collect();
    case.expect("reward_to_go", &group::reward_to_go(&rewards, &mask, &lengths, gamma));
    case.expect("reinforce_pp", &group::reinforce_pp(&rewards, &mask, &lengths, gamma));
    case.expect("reinforce_pp_baseline", &group::reinforce_pp_baseline(&scores, &groups, &mask, &lengths));
    let penalised: Vec<f64> = kl::per_sequence(&log_probs, &reference, &mask, &lengths)
        .iter()
        .zip(&scores)
        .map(|(kl, score)| score - beta * kl)
        .collect();
    case.expect("rloo_with_kl", &group::rloo(&penalised, &groups));
}
