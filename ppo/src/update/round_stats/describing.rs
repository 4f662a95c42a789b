//! From what a round was made of and has done to its numbers.

use super::RoundStats;
use crate::{
    experience::Experience,
    kl::{self, KlEstimator},
    loss::explained_variance,
    masked::{self, Variance},
    metrics,
    update::{first_minibatch::FirstMinibatch, pretraining::PtxStep, progress::Progress, tally::WeightTally},
};

impl RoundStats {
    /// Everything but what the round itself knows: rates, β, times, drops.
    pub(in crate::update) fn new(experience: &Experience, progress: &Progress) -> RoundStats {
        let mut stats = RoundStats {
            n_episodes: experience.episodes.len(),
            n_tokens: experience.n_tokens(),
            n_singletons: experience.is_alone.iter().filter(|alone| **alone).count(),
            ..RoundStats::default()
        };
        stats.describe_objective(experience);
        stats.describe_scores(experience);
        stats.describe_values(experience);
        stats.describe_behavior(experience, progress);
        stats.describe_steps(progress);
        stats
    }

    fn describe_objective(&mut self, experience: &Experience) {
        let (passes, old) = (&experience.passes, &experience.old_or_drawn);
        let everything = vec![true; old.len()];
        let kl = kl::per_sequence(old, &passes.reference, &everything, &experience.lengths);
        let k3 = kl::per_token(KlEstimator::K3, old, &passes.reference, &everything);
        let paid: Vec<f64> = (0..experience.episodes.len()).map(|i| experience.paid(i)).collect();
        let scores = experience.scores.iter().zip(&passes.last_values);
        let scores: Vec<f64> = scores.map(|(score, in_its_place)| score + in_its_place).collect();
        self.objective_kl = mean(&kl);
        self.objective_kl_k3 = mean(&k3);
        self.objective_entropy = passes.policy.as_ref().map(|pass| mean(&pass.entropies));
        self.objective_rlhf_reward = mean(&paid);
        self.objective_non_score_reward = self.objective_rlhf_reward - mean(&scores);
    }

    fn describe_scores(&mut self, experience: &Experience) {
        let scores: Vec<f64> = experience.episodes.iter().map(|e| e.score).collect();
        if scores.is_empty() {
            return;
        }
        let lengths: Vec<f64> = experience.lengths.iter().map(|n| *n as f64).collect();
        let costs = &experience.length_costs;
        let n_changed = (0..scores.len()).filter(|i| scores[*i] - costs[*i] != experience.scores[*i]).count();
        let n_ended = experience.episodes.iter().filter(|e| e.terminated).count();
        let staleness: Vec<f64> = experience.episodes.iter().map(|e| e.staleness as f64).collect();
        self.objective_scores = mean(&scores);
        self.scores_std = variance(&scores).sqrt();
        self.scores_min = scores.iter().copied().fold(f64::INFINITY, f64::min);
        self.scores_max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.scores_changed_fraction = n_changed as f64 / scores.len() as f64;
        self.length_penalty = experience.length_penalty.map(|_| mean(costs));
        self.length_score_correlation = metrics::pearson(&lengths, &scores);
        self.eos_rate = n_ended as f64 / scores.len() as f64;
        self.length_mean = mean(&lengths);
        self.length_max = experience.lengths.iter().copied().max().unwrap_or(0);
        self.staleness_mean = mean(&staleness);
        self.staleness_max = experience.episodes.iter().map(|e| e.staleness).max().unwrap_or(0);
    }

    fn describe_values(&mut self, experience: &Experience) {
        let values = &experience.passes.values;
        self.value_explained_variance = explained_variance(values, &experience.returns, &vec![true; values.len()]);
        self.value_mean = mean(values);
        self.return_mean = mean(&experience.returns);
        self.return_var = variance(&experience.returns);
        self.advantage_mean = mean(&experience.advantages);
        self.advantage_var = variance(&experience.advantages);
    }

    fn describe_behavior(&mut self, experience: &Experience, progress: &Progress) {
        self.first_minibatch = progress.first.as_ref().map(FirstMinibatch::stats);
        let weights = match (experience.importance(), &experience.passes.policy) {
            (Some(weights), Some(pass)) => {
                let behavior = experience.episodes.iter().flat_map(|e| &e.behavior);
                let gaps = pass.old.iter().zip(behavior).map(|(old, behavior)| (old - behavior).abs());
                self.behavior_gap_max = Some(gaps.fold(0.0, f64::max));
                weights
            }
            _ => return self.describe_weights(&progress.policy.weights),
        };
        self.ess = Some(weights.ess_fraction);
        self.importance_weight_mean = Some(masked::mean(&weights.weights, &weights.kept));
        self.importance_truncated_fraction = Some(weights.truncated_fraction);
        self.filtered_fraction = Some(weights.filtered_fraction);
        self.behavior_gap_mean = Some(weights.mean_abs_gap);
        self.behavior_kl_k3 = Some(weights.k3);
    }

    fn describe_weights(&mut self, weights: &WeightTally) {
        self.importance_weight_mean = weights.mean();
        self.importance_truncated_fraction = weights.truncated_fraction();
        self.filtered_fraction = weights.filtered_fraction();
    }

    fn describe_steps(&mut self, progress: &Progress) {
        let (policy, value) = (&progress.policy, &progress.value);
        let largest = |norms: &[f64]| norms.iter().copied().fold(0.0, f64::max);
        self.n_policy_steps = progress.n_policy_steps;
        self.n_value_steps = progress.n_value_steps;
        self.n_skipped_steps = progress.n_skipped_steps;
        self.trips = progress.trips.clone();
        self.stopped = progress.stopped;
        self.ran_away = progress.ran_away;
        self.policy_approx_kl_k1 = policy.approx_kl_k1();
        self.policy_approx_kl_k2 = policy.approx_kl_k2();
        self.policy_approx_kl_k3 = policy.approx_kl_k3();
        self.policy_clip_fraction = policy.clip_fraction();
        self.policy_clip_fraction_high = policy.clip_fraction_high();
        self.policy_clip_fraction_low = policy.clip_fraction() - policy.clip_fraction_high();
        self.policy_clip_fraction_dual = policy.dual_clip_fraction();
        self.policy_loss = policy.mean_loss();
        self.ratio_mean = policy.ratio_mean();
        self.ratio_var = policy.ratio_var();
        self.ratio_max = policy.ratio_max;
        self.policy_grad_norm = mean(&progress.policy_grad_norms);
        self.policy_grad_norm_max = largest(&progress.policy_grad_norms);
        self.value_loss = value.mean_loss();
        self.value_clip_fraction = value.clip_fraction();
        self.value_grad_norm = mean(&progress.value_grad_norms);
        self.value_grad_norm_max = largest(&progress.value_grad_norms);
        self.describe_pretraining(&progress.ptx);
    }

    fn describe_pretraining(&mut self, steps: &[PtxStep]) {
        let mean_of = |number: fn(&PtxStep) -> f64| mean(&steps.iter().map(number).collect::<Vec<f64>>());
        self.ptx_loss = mean_of(|step| step.nll);
        self.ptx_coef = steps.last().map_or(0.0, |step| step.coef);
        self.ptx_grad_norm = mean_of(|step| step.ptx_norm);
        self.ptx_ppo_grad_norm = mean_of(|step| step.ppo_norm);
        self.ptx_norm_ratio = mean_of(PtxStep::norm_ratio);
    }
}

fn mean(x: &[f64]) -> f64 {
    masked::mean(x, &vec![true; x.len()])
}

fn variance(x: &[f64]) -> f64 {
    masked::variance(x, &vec![true; x.len()], Variance::Population)
}
