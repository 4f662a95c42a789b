//! What a reward model is good for, beside what its labelers can agree on.

use std::fmt;

use policy::scalar_model::ScalarModel;
use ppo::metrics::{PairAgreement, pair_agreement};
use reward::{
    agreement::{Agreement, labeler_agreement},
    ranking_trainer::Ranking,
    reward_model::{HeldOut, raw_scores},
};

use super::comparisons::Comparisons;
use crate::train::error::Result;

/// Bins of confidence in the calibration error.
const BINS: usize = 10;

/// Measured on the rankings that were held back.
pub(super) struct Quality {
    /// Accuracy and calibration, and on how many pairs; `None` when nothing was held back.
    validation: Option<(PairAgreement, usize)>,
    /// Of all rankings, held back or not; `None` when nobody ranked what another had ranked.
    ceiling: Option<Agreement>,
}

impl Quality {
    /// What the model's file will say of it; `None` when nothing was held back.
    pub(super) fn held_out(&self) -> Option<HeldOut> {
        let (agreement, n_pairs) = self.validation.as_ref()?;
        Some(HeldOut { accuracy: agreement.accuracy, n_pairs: *n_pairs as u64 })
    }
}

/// Measures on raw scores: the ranking loss makes σ(gap) a probability, and a gain would change what it says.
pub(super) fn measure(model: &ScalarModel, data: &Comparisons) -> Result<Quality> {
    let rankings: Vec<Ranking> = data.validation.iter().map(Ranking::from).collect();
    let sequences: Vec<_> = rankings.iter().flat_map(|ranking| ranking.sequences.iter().cloned()).collect();
    let scores = raw_scores(model, &sequences)?;
    let mut rest = scores.as_slice();
    let mut gaps = Vec::new();
    for ranking in &rankings {
        let (own, after) = rest.split_at(ranking.ranks.len());
        rest = after;
        for (winner, better) in ranking.ranks.iter().enumerate() {
            let losers = ranking.ranks.iter().enumerate().filter(|(_, worse)| better < *worse);
            gaps.extend(losers.map(|(loser, _)| own[winner] - own[loser]));
        }
    }
    let validation = pair_agreement(&gaps, &vec![true; gaps.len()], BINS).map(|agreement| (agreement, gaps.len()));
    let all: Vec<_> = data.all().collect();
    Ok(Quality { validation, ceiling: labeler_agreement(&all) })
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.validation {
            None => write!(f, "validation: nothing was held back, so nothing is known about new answers")?,
            Some((agreement, n_pairs)) => write!(
                f,
                "validation, {n_pairs} pairs: accuracy {:.4}, log-loss {:.4}, calibration error {:.4}",
                agreement.accuracy, agreement.log_loss, agreement.calibration_error
            )?,
        }
        match self.ceiling {
            None => write!(f, "\nlabeler agreement: unknown, no two workers ranked the same answers"),
            Some(Agreement { n_pairs, n_agreed }) => write!(
                f,
                "\nlabeler agreement, {n_pairs} pairs: {:.4}, the ceiling of the accuracy above",
                n_agreed as f64 / n_pairs as f64
            ),
        }
    }
}
