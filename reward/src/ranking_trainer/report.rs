//! What was measured of some rankings.

use crate::ranking::RankingLoss;

/// Loss and accuracy over some rankings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RankingReport {
    /// Mean over prompts, nats.
    pub loss: f64,
    /// Prompts that have a pair.
    pub n_prompts: usize,
    /// Pairs that are not ties.
    pub n_pairs: usize,
    /// Pairs whose better response has strictly the higher score.
    pub n_correct: usize,
}

impl RankingReport {
    /// Share of pairs in the right order; 0 without pairs.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.n_correct as f64 / self.n_pairs.max(1) as f64
    }

    pub(super) fn add(&mut self, loss: &RankingLoss) {
        self.n_prompts += usize::from(loss.n_pairs > 0);
        self.n_pairs += loss.n_pairs;
        self.n_correct += loss.n_correct;
        self.loss += loss.loss;
    }

    pub(super) fn mean(mut self) -> RankingReport {
        self.loss /= self.n_prompts.max(1) as f64;
        self
    }
}
