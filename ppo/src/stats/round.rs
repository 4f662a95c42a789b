//! The numbers of a round by the names that people look for: TRL's where TRL has one (its PPO trainer's log keys), then
//! lm-human-preferences', verl's and PipelineRL's for what TRL does not measure.

use std::collections::BTreeMap;

use crate::{
    guard::Guard,
    update::{FirstMinibatchStats, RoundStats},
};

/// Name and value of everything that a round measured. A number that is not finite is not a number, and left out.
#[must_use]
pub fn named(stats: &RoundStats) -> BTreeMap<String, f64> {
    let of_parts =
        [objective(stats), steps_of_policy(stats), steps_of_value(stats), round(stats), first_minibatch(stats)];
    let numbers = of_parts.concat();
    let finite = numbers.into_iter().filter(|(_, value)| value.is_finite());
    let guards = Guard::ALL.map(|guard| (format!("guard/{}", guard.as_str()), stats.trips.count(guard) as f64));
    finite.map(|(name, value)| (name.to_string(), value)).chain(guards).collect()
}

/// What the rewards were.
fn objective(stats: &RoundStats) -> Vec<(&'static str, f64)> {
    vec![
        ("objective/kl", stats.objective_kl),
        ("objective/kl_k3", stats.objective_kl_k3),
        ("objective/kl_coef", stats.kl_coef),
        ("objective/entropy", known(stats.objective_entropy)),
        ("objective/non_score_reward", stats.objective_non_score_reward),
        ("objective/rlhf_reward", stats.objective_rlhf_reward),
        ("objective/scores", stats.objective_scores),
        ("objective/scores_std", stats.scores_std),
        ("objective/scores_min", stats.scores_min),
        ("objective/scores_max", stats.scores_max),
        ("objective/scores_changed_fraction", stats.scores_changed_fraction),
        ("objective/length_score_correlation", stats.length_score_correlation),
        ("objective/length_penalty", stats.length_penalty.unwrap_or(f64::NAN)),
        ("objective/reward_versions", stats.n_reward_versions as f64),
        ("objective/held_out_scores", known(stats.held_out_score)),
    ]
}

/// How the policy moved, and what the text beside it did.
fn steps_of_policy(stats: &RoundStats) -> Vec<(&'static str, f64)> {
    vec![
        ("policy/approxkl_avg", stats.policy_approx_kl_k2),
        ("policy/approxkl_k1", stats.policy_approx_kl_k1),
        ("policy/approxkl_k3", stats.policy_approx_kl_k3),
        ("policy/approxkl_k3_final", stats.policy_final_kl_k3),
        ("policy/clipfrac_avg", stats.policy_clip_fraction),
        ("policy/clipfrac_high", stats.policy_clip_fraction_high),
        ("policy/clipfrac_low", stats.policy_clip_fraction_low),
        ("policy/clipfrac_dual", stats.policy_clip_fraction_dual),
        ("policy/entropy_avg", known(stats.objective_entropy)),
        ("policy/grad_norm", stats.policy_grad_norm),
        ("policy/grad_norm_max", stats.policy_grad_norm_max),
        ("loss/policy_avg", stats.policy_loss),
        ("val/ratio", stats.ratio_mean),
        ("val/ratio_var", stats.ratio_var),
        ("val/ratio_max", stats.ratio_max),
        ("ptx/loss", stats.ptx_loss),
        ("ptx/coef", stats.ptx_coef),
        ("ptx/grad_norm", stats.ptx_grad_norm),
        ("ptx/ppo_grad_norm", stats.ptx_ppo_grad_norm),
        ("ptx/norm_ratio", stats.ptx_norm_ratio),
        ("lr", stats.policy_learning_rate),
    ]
}

/// How the value model did.
fn steps_of_value(stats: &RoundStats) -> Vec<(&'static str, f64)> {
    vec![
        ("loss/value_avg", stats.value_loss),
        ("val/clipfrac_avg", stats.value_clip_fraction),
        ("val/explained_variance", stats.value_explained_variance),
        ("val/value_mean", stats.value_mean),
        ("val/return_mean", stats.return_mean),
        ("val/return_var", stats.return_var),
        ("val/advantage_mean", stats.advantage_mean),
        ("val/advantage_var", stats.advantage_var),
        ("val/grad_norm", stats.value_grad_norm),
        ("val/grad_norm_max", stats.value_grad_norm_max),
        ("val/num_eos_tokens", stats.eos_rate * stats.n_episodes as f64),
        ("lr_value", stats.value_learning_rate),
        ("lr_value_head", stats.value_head_learning_rate.unwrap_or(f64::NAN)),
    ]
}

/// What took part, how it was drawn, and what it cost.
fn round(stats: &RoundStats) -> Vec<(&'static str, f64)> {
    vec![
        ("episodes", stats.n_episodes as f64),
        ("tokens", stats.n_tokens as f64),
        ("dropped", stats.n_dropped as f64),
        ("singletons", stats.n_singletons as f64),
        ("steps/value_warmup", f64::from(u8::from(stats.is_value_warmup))),
        ("steps/policy", stats.n_policy_steps as f64),
        ("steps/value", stats.n_value_steps as f64),
        ("steps/skipped", stats.n_skipped_steps as f64),
        ("steps/stopped_early", f64::from(u8::from(stats.stopped))),
        ("steps/ran_away", f64::from(u8::from(stats.ran_away))),
        ("sampling/ess", known(stats.ess)),
        ("sampling/importance_sampling_ratio/mean", known(stats.importance_weight_mean)),
        ("sampling/truncated_fraction", known(stats.importance_truncated_fraction)),
        ("sampling/filtered_fraction", known(stats.filtered_fraction)),
        ("sampling/sampling_logp_difference/mean", known(stats.behavior_gap_mean)),
        ("sampling/sampling_logp_difference/max", known(stats.behavior_gap_max)),
        ("sampling/kl_k3", known(stats.behavior_kl_k3)),
        ("completions/eos_rate", stats.eos_rate),
        ("completions/mean_length", stats.length_mean),
        ("completions/max_length", stats.length_max as f64),
        ("staleness/mean", stats.staleness_mean),
        ("staleness/max", stats.staleness_max as f64),
        ("time/experience_s", stats.experience_s),
        ("time/steps_s", stats.update_s),
    ]
}

/// What is known of the policy at the start of a round where nobody ran it before the steps (`ppo.proximal`).
fn first_minibatch(stats: &RoundStats) -> Vec<(&'static str, f64)> {
    let of = |number: fn(&FirstMinibatchStats) -> Option<f64>| known(stats.first_minibatch.as_ref().and_then(number));
    vec![
        ("first_minibatch/entropy", of(|first| Some(first.entropy))),
        ("first_minibatch/ess", of(|first| Some(first.ess))),
        ("first_minibatch/logp_difference", of(|first| first.engine_gap)),
    ]
}

/// What is not known is no number, and left out.
fn known(number: Option<f64>) -> f64 {
    number.unwrap_or(f64::NAN)
}
