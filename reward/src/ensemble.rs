//! Ensembles: several reward heads on one trunk, and what they say together.
//!
//! PPO moves a policy to where the reward model is wrong. Members that learnt from the same rankings in different ways are
//! wrong in different places, so their disagreement marks the answers on which none should be believed. Coste et al.
//! (arXiv 2310.02743) train against a pessimistic combination: the worst member, or the mean less a multiple of the
//! variance. Their members are whole models; ours share the trunk, which costs one forward pass instead of M and leaves
//! less to disagree about: each head is drawn for itself and sees its own resampling of the rankings
//! ([`resampling_weight`]).

use policy::checkpoint::Digest;

use crate::{
    ranking::{RankingLoss, RankingOptions, ranking_loss},
    ranking_trainer::Ranking,
};

/// What the members of an ensemble say together about one response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnsembleScore {
    /// Mean over the members.
    pub mean: f64,
    /// The most pessimistic member: worst-case optimisation.
    pub worst: f64,
    /// Population variance over the members: high means that the response is unlike what they were trained on.
    pub variance: f64,
}

impl EnsembleScore {
    /// Uncertainty-weighted optimisation: `mean − λ·variance`. Source: Coste et al. (arXiv 2310.02743) section 3.2.
    #[must_use]
    pub fn uncertainty_weighted(&self, lambda: f64) -> f64 {
        self.mean - lambda * self.variance
    }
}

/// Joins the members' scores of one response.
///
/// Source: Coste et al. (arXiv 2310.02743) section 3.2.
/// - `members`: `[m]`, normalised scores.
///
/// `None` for an empty ensemble.
#[must_use]
pub fn ensemble(members: &[f64]) -> Option<EnsembleScore> {
    if members.is_empty() {
        return None;
    }
    let n = members.len() as f64;
    let mean = members.iter().sum::<f64>() / n;
    let variance = members.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / n;
    let worst = members.iter().copied().fold(f64::INFINITY, f64::min);
    Some(EnsembleScore { mean, worst, variance })
}

/// How the members' scores become the one that trains.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Combination {
    /// Their mean.
    #[default]
    Mean,
    /// The most pessimistic member (WCO).
    Worst,
    /// Their mean less λ times their variance (UWO).
    UncertaintyWeighted {
        /// λ, per score unit.
        lambda: f64,
    },
}

impl Combination {
    /// What `reward.ensemble` and `reward.uwo_lambda` ask for.
    #[must_use]
    pub fn configured(reward: &config::Reward) -> Combination {
        match reward.ensemble.as_str() {
            "min" => Combination::Worst,
            "uwo" => Combination::UncertaintyWeighted { lambda: reward.uwo_lambda },
            _ => Combination::Mean,
        }
    }

    /// The score of one response.
    #[must_use]
    pub fn of(self, members: &EnsembleScore) -> f64 {
        match self {
            Combination::Mean => members.mean,
            Combination::Worst => members.worst,
            Combination::UncertaintyWeighted { lambda } => members.uncertainty_weighted(lambda),
        }
    }

    /// What the scores of an ensemble are stamped with beside its digest: another combination is another judge.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Combination::Mean => "mean".to_owned(),
            Combination::Worst => "min".to_owned(),
            Combination::UncertaintyWeighted { lambda } => format!("uwo({lambda})"),
        }
    }
}

/// How often a member sees a ranking in one epoch: a draw from Poisson(1), which is what drawing n of n with replacement
/// comes to (online bagging: Oza and Russell 2001).
///
/// It depends on the seed, the member and the ranking itself, so that order, batches and threads change nothing.
#[must_use]
pub fn resampling_weight(seed: u64, member: usize, ranking: &Ranking) -> f64 {
    let mut bytes: Vec<u8> = [seed, member as u64].iter().flat_map(|n| n.to_le_bytes()).collect();
    for tokens in &ranking.sequences {
        bytes.extend((tokens.len() as u64).to_le_bytes());
        bytes.extend(tokens.iter().flat_map(|token| token.0.to_le_bytes()));
    }
    bytes.extend(ranking.ranks.iter().flat_map(|rank| rank.to_le_bytes()));
    let [a, b, c, d, e, f, g, h, ..] = Digest::of(&bytes).0;
    let uniform = u64::from_le_bytes([a, b, c, d, e, f, g, h]) as f64 / 2f64.powi(64);
    poisson_of_one(uniform)
}

/// The count at which the cumulated probabilities of Poisson(1), `e⁻¹/n!`, first exceed `uniform` in `[0, 1)`.
fn poisson_of_one(uniform: f64) -> f64 {
    let (mut n, mut term) = (0.0, (-1f64).exp());
    let mut below = term;
    // Beyond 20 a double cannot tell the sum from 1.
    while below <= uniform && n < 20.0 {
        n += 1.0;
        term /= n;
        below += term;
    }
    n
}

/// Ranking loss of all members on the responses to one prompt.
///
/// `loss = (1/M) Σ_m w_m·loss_m`, `loss_m` of [`ranking_loss`].
/// - `scores`: `[k, m]` row by row, raw outputs of the heads;
/// - `ranks`: `[k]`, 1 is best;
/// - `weights`: `[m]`, [`resampling_weight`] of each member.
///
/// Returns the loss with d loss / d score, `[k, m]`; pairs are counted as the members' mean orders them. With one member
/// of weight 1 it is [`ranking_loss`] itself.
///
/// # Panics
/// When the shapes differ: only a bug of the caller can do that.
#[must_use]
pub fn ensemble_ranking_loss(scores: &[f64], ranks: &[u32], weights: &[f64], options: &RankingOptions) -> RankingLoss {
    let n_members = weights.len();
    assert_eq!(scores.len(), ranks.len() * n_members, "one score per response and member");
    let mean: Vec<f64> = scores.chunks(n_members).map(|row| row.iter().sum::<f64>() / n_members as f64).collect();
    let mut joint = ranking_loss(&mean, ranks, options);
    joint.loss = 0.0;
    joint.grad_scores = vec![0.0; scores.len()];
    for (member, weight) in weights.iter().enumerate() {
        let own: Vec<f64> = scores.iter().skip(member).step_by(n_members).copied().collect();
        let loss = ranking_loss(&own, ranks, options);
        let share = weight / n_members as f64;
        joint.loss += share * loss.loss;
        for (response, gradient) in loss.grad_scores.iter().enumerate() {
            joint.grad_scores[response * n_members + member] = share * gradient;
        }
    }
    joint
}

#[cfg(test)]
mod tests {
    use policy::TokenId;

    use super::*;

    #[test]
    fn disagreement_lowers_the_uncertainty_weighted_score() {
        let agreed = ensemble(&[1.0, 1.0]).unwrap();
        let torn = ensemble(&[0.0, 2.0]).unwrap();
        assert_eq!(agreed.mean, torn.mean);
        assert!(torn.uncertainty_weighted(0.5) < agreed.uncertainty_weighted(0.5));
        assert_eq!(torn.worst, 0.0);
    }

    #[test]
    fn the_configured_word_decides_who_speaks() {
        let members = ensemble(&[0.0, 2.0]).unwrap();
        let combined = |word: &str| {
            let reward =
                config::Reward { ensemble: word.to_owned(), uwo_lambda: 0.25, ..config::Config::default().reward };
            Combination::configured(&reward).of(&members)
        };
        assert_eq!([combined("mean"), combined("min"), combined("uwo")], [1.0, 0.0, 0.75]);
    }

    /// Goal: every member sees its own bootstrap sample. Method: mean and variance of Poisson(1) are both 1, and two
    /// members' weights are not the same.
    #[test]
    fn members_see_resamplings_of_their_own() {
        let ranking = |i: u32| Ranking::new(&[TokenId(i)], &[vec![TokenId(1)], vec![TokenId(2)]], &[1, 2]);
        let weights = |member| (0..4000).map(|i| resampling_weight(9, member, &ranking(i))).collect::<Vec<f64>>();
        let (first, second) = (weights(0), weights(1));
        let mean = first.iter().sum::<f64>() / 4000.0;
        let variance = first.iter().map(|w| (w - mean) * (w - mean)).sum::<f64>() / 4000.0;
        assert!((mean - 1.0).abs() < 0.06 && (variance - 1.0).abs() < 0.12, "mean {mean}, variance {variance}");
        let n_equal = first.iter().zip(&second).filter(|(a, b)| a == b).count();
        assert!(n_equal < 1600, "{n_equal} of 4000 weights are equal");
        assert_eq!(first, weights(0));
    }

    /// Goal: the joint gradient is that of the joint loss, and one member is no ensemble. Method: central differences.
    #[test]
    fn the_joint_gradient_is_that_of_the_joint_loss() {
        let options = RankingOptions { label_smoothing: 0.1, margin_per_rank: 0.2, ..RankingOptions::default() };
        let (scores, ranks, weights) = ([0.3, -0.7, 1.1, 0.2, -0.4, 0.9], [2, 1, 3], [2.0, 1.0]);
        let loss = |scores: &[f64]| ensemble_ranking_loss(scores, &ranks, &weights, &options);
        let gradients = loss(&scores).grad_scores;
        for (i, gradient) in gradients.iter().enumerate() {
            let at = |by: f64| {
                let mut moved = scores;
                moved[i] += by;
                loss(&moved).loss
            };
            let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((numeric - gradient).abs() < 1e-8, "{i}: {numeric} {gradient}");
        }
        let member = |i: usize| {
            let own: Vec<f64> = scores.iter().skip(i).step_by(2).copied().collect();
            ranking_loss(&own, &ranks, &options).loss
        };
        assert!(
            (loss(&scores).loss - (2.0 * member(0) + member(1)) / 2.0).abs() < 1e-12,
            "a member drawn twice counts twice"
        );
        let one = [0.3, -0.7, 1.1];
        assert_eq!(ensemble_ranking_loss(&one, &ranks, &[1.0], &options), ranking_loss(&one, &ranks, &options));
    }
}
