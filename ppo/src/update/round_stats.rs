//! The numbers of a round, under the names that people look for.

mod describing;

use super::first_minibatch::FirstMinibatchStats;
use crate::guard::Trips;

/// What a round was like. Means over tokens are over all response tokens of the round unless they say otherwise. What nobody
/// knows with `ppo.proximal = "log_linear"` is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundStats {
    /// Rollouts that were episodes.
    pub n_episodes: usize,
    /// Their response tokens.
    pub n_tokens: usize,
    /// Rollouts that did not train, for any reason.
    pub n_dropped: usize,
    /// Optimiser steps of the policy that count; 0 when the round was taken back.
    pub n_policy_steps: usize,
    /// Optimiser steps of the value model.
    pub n_value_steps: usize,
    /// Steps left out because a loss or gradient was not finite.
    pub n_skipped_steps: usize,
    /// What the guard rails said.
    pub trips: Trips,
    /// Only the value model learnt: `value_warmup_updates`.
    pub is_value_warmup: bool,
    /// Episodes that were the only answer to their prompt although the estimator compares answers.
    pub n_singletons: usize,
    /// Versions of the reward source that judged the rollouts; more than one means that scores may not compare.
    pub n_reward_versions: usize,
    /// Mean score of the rollouts that only measure; `None` when there are none.
    pub held_out_score: Option<f64>,
    /// `stop_kl` ended the policy's steps early.
    pub stopped: bool,
    /// The round was taken back: `skip_kl`, or too many steps of the policy left out in a row.
    pub ran_away: bool,

    /// KL to the reference per episode, Σ_t k1, nats (TRL `objective/kl`); measured at the start of the round, or with `ppo.proximal =
    /// "log_linear"` of the versions that drew its rollouts.
    pub objective_kl: f64,
    /// The same per token as k3, nats: never negative.
    pub objective_kl_k3: f64,
    /// Mean entropy per token, nats (verl `actor/entropy`, TRL `policy/entropy_avg`).
    pub objective_entropy: Option<f64>,
    /// −β·KL per episode (TRL `objective/non_score_reward`).
    pub objective_non_score_reward: f64,
    /// Score and KL penalty together, per episode (TRL `objective/rlhf_reward`).
    pub objective_rlhf_reward: f64,
    /// Mean score as judged (TRL `objective/scores`).
    pub objective_scores: f64,
    /// Its standard deviation, population.
    pub scores_std: f64,
    /// Smallest score.
    pub scores_min: f64,
    /// Largest score.
    pub scores_max: f64,
    /// Share of scores that the clip or the missing-EOS rule changed, whatever length took off them.
    pub scores_changed_fraction: f64,
    /// What length took off the scores, mean over episodes; `None` where it costs nothing (`ppo.length_penalty`).
    pub length_penalty: Option<f64>,
    /// Correlation of length and score: near 1 means that length is being rewarded.
    pub length_score_correlation: f64,

    /// KL(old ‖ new) as k1, nats per token (`lm-human-preferences` has k2 under `ppo/policy/approxkl`); from the guess of old where
    /// `ppo.proximal` makes one.
    pub policy_approx_kl_k1: f64,
    /// As k2 (TRL `policy/approxkl_avg`).
    pub policy_approx_kl_k2: f64,
    /// As k3: what `stop_kl` and `skip_kl` watch before each step, there for one minibatch.
    pub policy_approx_kl_k3: f64,
    /// KL(old ‖ new) as k3 after the last step, nats per token, over the first episodes that trained, or where old is a guess of all
    /// others over those of the first minibatch: what `skip_kl` and the gate judge. 0 where the policy made no step, or ran
    /// away before the last; not a number where nobody asks, and no more is the next one.
    pub policy_final_kl_k3: f64,
    /// KL to the reference after the last step, nats per episode, over the same episodes: what the gate judges, since
    /// [`RoundStats::objective_kl`] is of the policy that the round began with. In the gate's report, where it was measured, and not
    /// among the numbers of the round, which older records would lack.
    pub policy_final_kl_to_reference: f64,
    /// Share of tokens whose clipped objective was the worse one (TRL `policy/clipfrac_avg`, verl `actor/pg_clipfrac`).
    pub policy_clip_fraction: f64,
    /// The part of it above 1, where a good token became likelier (TRL `clip_ratio/high_mean`).
    pub policy_clip_fraction_high: f64,
    /// The part of it below 1, where a bad token became less likely (TRL `clip_ratio/low_mean`).
    pub policy_clip_fraction_low: f64,
    /// Share of tokens that `dual_clip` stopped (verl `actor/pg_clipfrac_lower`).
    pub policy_clip_fraction_dual: f64,
    /// Policy loss, mean over minibatches (TRL `loss/policy_avg`); with the KL penalty where `ppo.kl_in` is "loss".
    pub policy_loss: f64,
    /// Mean of π/π_old (TRL `val/ratio`); with `ppo.importance = "bypass"` of π/π_behavior; old may be a guess (`ppo.proximal`).
    pub ratio_mean: f64,
    /// Its variance (TRL `val/ratio_var`).
    pub ratio_var: f64,
    /// Its maximum.
    pub ratio_max: f64,
    /// Gradient norm of the policy before clipping, mean over steps (verl `actor/grad_norm`).
    pub policy_grad_norm: f64,
    /// Its maximum.
    pub policy_grad_norm_max: f64,

    /// Value loss, mean over minibatches (TRL `loss/value_avg`).
    pub value_loss: f64,
    /// Share of tokens whose clipped error was the larger one (TRL `val/clipfrac_avg`, verl `critic/vf_clipfrac`).
    pub value_clip_fraction: f64,
    /// 1 − Var(R − V_old)/Var(R) (verl `critic/vf_explained_var`).
    pub value_explained_variance: f64,
    /// Mean of V_old (verl `critic/values/mean`).
    pub value_mean: f64,
    /// Mean of R (`lm-human-preferences` `ppo/returns/mean`).
    pub return_mean: f64,
    /// Variance of R (`ppo/returns/var`).
    pub return_var: f64,
    /// Mean of A before whitening (`ppo/val/advantage`).
    pub advantage_mean: f64,
    /// Variance of A before whitening (`ppo/val/advantage_var`).
    pub advantage_var: f64,
    /// Gradient norm of the value model before clipping, mean over steps (verl `critic/grad_norm`).
    pub value_grad_norm: f64,
    /// Its maximum.
    pub value_grad_norm_max: f64,

    /// Mean negative log-likelihood of the pretraining text that was mixed in, before each step, nats a token.
    pub ptx_loss: f64,
    /// γ of that text.
    pub ptx_coef: f64,
    /// Norm of its gradient without γ, mean over steps.
    pub ptx_grad_norm: f64,
    /// Norm of the rollouts' gradient at the same steps, mean.
    pub ptx_ppo_grad_norm: f64,
    /// γ times the one, divided by the other, mean.
    pub ptx_norm_ratio: f64,

    /// Adam step size of the policy (TRL `lr`).
    pub policy_learning_rate: f64,
    /// Adam step size of the value model.
    pub value_learning_rate: f64,
    /// Adam step size of its head; `None` where that is the same (`ppo.value_head_learning_rate`).
    pub value_head_learning_rate: Option<f64>,
    /// β of this round's rewards (`objective/kl_coef`).
    pub kl_coef: f64,
    /// β of the next round.
    pub kl_coef_next: f64,

    /// Effective sample size of the importance weights over the tokens that may train, a share (PipelineRL `rl/ess`); those
    /// that are filtered weigh 0, so it is at most the share that is left.
    pub ess: Option<f64>,
    /// Mean importance weight over the tokens that train (verl `rollout_corr/rollout_is_mean`). Where each minibatch weighs anew,
    /// over all minibatches, as are the next two; `None` where there was none.
    pub importance_weight_mean: Option<f64>,
    /// Share of tokens whose weight was cut to `is_cap`.
    pub importance_truncated_fraction: Option<f64>,
    /// Share of tokens in sequences outside `is_geo_low..=is_geo_high` (AReaL `rs_filtered_fraction`).
    pub filtered_fraction: Option<f64>,
    /// Mean |ℓ_old − ℓ_behavior|, nats (slime `train_rollout_logprob_abs_diff`).
    pub behavior_gap_mean: Option<f64>,
    /// Its maximum.
    pub behavior_gap_max: Option<f64>,
    /// KL(behavior ‖ old) as k3, nats (verl `rollout_corr/k3_kl`).
    pub behavior_kl_k3: Option<f64>,
    /// Of the first minibatch, where that is all that is known of the policy at the start.
    pub first_minibatch: Option<FirstMinibatchStats>,

    /// Share of responses that ended by themselves (TRL `val/num_eos_tokens`).
    pub eos_rate: f64,
    /// Mean response length, tokens (verl `response_length/mean`).
    pub length_mean: f64,
    /// Longest response, tokens.
    pub length_max: usize,
    /// Mean staleness, versions.
    pub staleness_mean: f64,
    /// Largest.
    pub staleness_max: u64,

    /// Seconds for the frozen passes and everything that is constant in the round.
    pub experience_s: f64,
    /// Seconds for the optimiser steps.
    pub update_s: f64,
}
