//! Sums over micro-batches of what the losses report as means.

use super::{first_minibatch::Said, tokens::Reading};
use crate::{
    loss::{PolicyLoss, ValueLoss},
    masked,
    off_policy::ImportanceWeights,
};

/// Of weights that were not known before the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WeightTally {
    n_tokens: f64,
    n_kept: f64,
    sum: f64,
    n_truncated: f64,
}

impl WeightTally {
    fn add(&mut self, importance: &ImportanceWeights) {
        let n = importance.weights.len() as f64;
        self.n_tokens += n;
        self.n_kept += masked::count(&importance.kept) as f64;
        self.sum += importance.weights.iter().sum::<f64>();
        self.n_truncated += n * importance.truncated_fraction;
    }

    fn merge(&mut self, other: &WeightTally) {
        self.n_tokens += other.n_tokens;
        self.n_kept += other.n_kept;
        self.sum += other.sum;
        self.n_truncated += other.n_truncated;
    }

    /// Mean over the tokens that trained; `None` where no minibatch was weighed.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.n_tokens > 0.0).then(|| self.sum / self.n_kept.max(1.0))
    }

    /// Share of tokens whose weight was cut to the cap.
    pub(super) fn truncated_fraction(&self) -> Option<f64> {
        (self.n_tokens > 0.0).then(|| self.n_truncated / self.n_tokens)
    }

    /// Share of tokens that weighed 0.
    pub(super) fn filtered_fraction(&self) -> Option<f64> {
        (self.n_tokens > 0.0).then(|| (self.n_tokens - self.n_kept) / self.n_tokens)
    }
}

/// Of the policy loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PolicyTally {
    pub(super) n_tokens: usize,
    pub(super) n_minibatches: usize,
    /// Of one minibatch, or summed over several.
    pub(super) loss: f64,
    pub(super) ratio_max: f64,
    clipped: f64,
    clipped_high: f64,
    clipped_dual: f64,
    k1: f64,
    k2: f64,
    k3: f64,
    ratios: f64,
    squared_ratios: f64,
    pub(super) weights: WeightTally,
    /// Of one minibatch, what its forward passes said, where somebody will ask.
    pub(super) said: Vec<Said>,
}

impl PolicyTally {
    /// Some tokens of a micro-batch; the micro-batches of a minibatch are one minibatch.
    pub(super) fn add(&mut self, reading: &Reading) {
        let Reading { loss, kl, importance } = reading;
        self.add_loss(loss);
        let n = loss.n_tokens as f64;
        self.k1 += n * kl.k1;
        self.k2 += n * kl.k2;
        self.k3 += n * kl.k3;
        importance.iter().for_each(|importance| self.weights.add(importance));
    }

    fn add_loss(&mut self, loss: &PolicyLoss) {
        let n = loss.n_tokens as f64;
        self.n_minibatches = 1;
        self.n_tokens += loss.n_tokens;
        self.loss += loss.loss;
        self.clipped += n * loss.clip_fraction;
        self.clipped_high += n * loss.clip_fraction_high;
        self.clipped_dual += n * loss.dual_clip_fraction;
        self.ratios += loss.ratios.iter().sum::<f64>();
        self.squared_ratios += loss.ratios.iter().map(|r| r * r).sum::<f64>();
        self.ratio_max = loss.ratios.iter().copied().fold(self.ratio_max, f64::max);
    }

    /// Another part of the same minibatch.
    pub(super) fn join(&mut self, part: PolicyTally) {
        self.merge(&part);
        self.said.extend(part.said);
        self.n_minibatches = 1;
    }

    /// Another minibatch.
    pub(super) fn merge(&mut self, other: &PolicyTally) {
        self.n_minibatches += other.n_minibatches;
        self.n_tokens += other.n_tokens;
        self.loss += other.loss;
        self.clipped += other.clipped;
        self.clipped_high += other.clipped_high;
        self.clipped_dual += other.clipped_dual;
        self.k1 += other.k1;
        self.k2 += other.k2;
        self.k3 += other.k3;
        self.ratios += other.ratios;
        self.squared_ratios += other.squared_ratios;
        self.ratio_max = self.ratio_max.max(other.ratio_max);
        self.weights.merge(&other.weights);
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.n_tokens.max(1) as f64
    }

    pub(super) fn mean_loss(&self) -> f64 {
        self.loss / self.n_minibatches.max(1) as f64
    }

    pub(super) fn clip_fraction(&self) -> f64 {
        self.mean(self.clipped)
    }

    pub(super) fn clip_fraction_high(&self) -> f64 {
        self.mean(self.clipped_high)
    }

    pub(super) fn dual_clip_fraction(&self) -> f64 {
        self.mean(self.clipped_dual)
    }

    pub(super) fn approx_kl_k1(&self) -> f64 {
        self.mean(self.k1)
    }

    pub(super) fn approx_kl_k2(&self) -> f64 {
        self.mean(self.k2)
    }

    pub(super) fn approx_kl_k3(&self) -> f64 {
        self.mean(self.k3)
    }

    pub(super) fn ratio_mean(&self) -> f64 {
        self.mean(self.ratios)
    }

    pub(super) fn ratio_var(&self) -> f64 {
        let mean = self.ratio_mean();
        (self.mean(self.squared_ratios) - mean * mean).max(0.0)
    }
}

/// Of the value loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ValueTally {
    pub(super) n_tokens: usize,
    pub(super) n_minibatches: usize,
    /// Of one minibatch, or summed over several.
    pub(super) loss: f64,
    clipped: f64,
}

impl ValueTally {
    /// One micro-batch; the micro-batches of a minibatch are one minibatch.
    pub(super) fn add(&mut self, loss: &ValueLoss, n_tokens: usize) {
        self.n_minibatches = 1;
        self.n_tokens += n_tokens;
        self.loss += loss.loss;
        self.clipped += n_tokens as f64 * loss.clip_fraction;
    }

    /// Another minibatch.
    pub(super) fn merge(&mut self, other: &ValueTally) {
        self.n_minibatches += other.n_minibatches;
        self.n_tokens += other.n_tokens;
        self.loss += other.loss;
        self.clipped += other.clipped;
    }

    pub(super) fn mean_loss(&self) -> f64 {
        self.loss / self.n_minibatches.max(1) as f64
    }

    pub(super) fn clip_fraction(&self) -> f64 {
        self.clipped / self.n_tokens.max(1) as f64
    }
}
