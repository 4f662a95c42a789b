//! Two versions' answers to the same questions, compared.

use std::collections::HashSet;

use policy::{FinishReason, Rollout, TokenId};

/// Pairs below which no interval is worth its name.
pub const PAIRS_MIN: usize = 8;
/// Quantile of the normal distribution for a two-sided 95 % interval.
const Z_95: f64 = 1.96;

/// A mean of paired differences, with what is known about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDifference {
    /// Pairs.
    pub n: usize,
    /// Mean of first − second.
    pub mean: f64,
    /// Standard error of that mean, from the sample's deviation.
    pub standard_error: f64,
}

impl PairedDifference {
    /// Of two lists that belong together; `None` below [`PAIRS_MIN`].
    #[must_use]
    pub fn of(first: &[f64], second: &[f64]) -> Option<PairedDifference> {
        let n = first.len().min(second.len());
        if n < PAIRS_MIN {
            return None;
        }
        let differences = first.iter().zip(second).map(|(a, b)| a - b);
        let mean = differences.clone().sum::<f64>() / n as f64;
        let variance = differences.map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        Some(PairedDifference { n, mean, standard_error: (variance / n as f64).sqrt() })
    }

    /// Upper end of the 95 % interval of the mean.
    #[must_use]
    pub fn upper(&self) -> f64 {
        self.mean + Z_95 * self.standard_error
    }

    /// Lower end of it.
    #[must_use]
    pub fn lower(&self) -> f64 {
        self.mean - Z_95 * self.standard_error
    }
}

/// What the answers of one version are like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manner {
    /// Answers.
    pub n: usize,
    /// Mean length, tokens.
    pub length: f64,
    /// Share that ended by themselves.
    pub eos_rate: f64,
    /// Distinct pairs of neighbouring tokens among all of them (distinct-2 of Li et al. 2016, over all answers together).
    pub distinct_2: f64,
}

impl Manner {
    /// Of these answers.
    #[must_use]
    pub fn of(answers: &[Rollout]) -> Manner {
        let n = answers.len().max(1) as f64;
        let n_tokens: usize = answers.iter().map(|answer| answer.response.len()).sum();
        let ended = answers.iter().filter(|answer| answer.finish == FinishReason::EndToken).count();
        let mut pairs = HashSet::new();
        let mut n_pairs = 0;
        for answer in answers {
            let ids: Vec<TokenId> = answer.response.iter().map(|token| token.id).collect();
            n_pairs += ids.len().saturating_sub(1);
            pairs.extend(ids.windows(2).map(|pair| (pair[0], pair[1])));
        }
        Manner {
            n: answers.len(),
            length: n_tokens as f64 / n,
            eos_rate: ended as f64 / n,
            // Answers of one token repeat nothing.
            distinct_2: if n_pairs == 0 { 1.0 } else { pairs.len() as f64 / n_pairs as f64 },
        }
    }
}

/// A candidate beside the live version.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The candidate's answers.
    pub candidate: Manner,
    /// The live version's answers to the same questions, drawn with the same random numbers.
    pub live: Manner,
    /// Reward of the candidate − reward of the live version; `None` where nothing judges, or there are too few pairs.
    pub reward: Option<PairedDifference>,
    /// Who judged both: the reward version of every score; `None` where `reward` is.
    pub judge: Option<String>,
}

#[cfg(test)]
mod tests {
    use policy::{LogProb, PolicyVersion, RolloutId, SampledToken, SamplingParams};

    use super::*;

    fn answer(ids: &[u32], finish: FinishReason) -> Rollout {
        let token = |&id: &u32| SampledToken {
            id: TokenId(id),
            log_prob: LogProb(-1.0),
            behavior: LogProb(-1.0),
            log_kept_mass: 0.0,
        };
        Rollout {
            id: RolloutId { request: "trial".into(), index: 0 },
            version: PolicyVersion::SFT,
            prompt: vec![TokenId(1)],
            response: ids.iter().map(token).collect(),
            sampling: SamplingParams::default(),
            finish,
            user: None,
            created_ms: 0,
        }
    }

    #[test]
    fn a_paired_difference_by_hand() {
        let first = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let second = [0.0, 2.0, 2.0, 4.0, 4.0, 6.0, 6.0, 8.0];
        let difference = PairedDifference::of(&first, &second).unwrap();
        // Differences 1 and 0 in turn: variance 8 · 0.25 / 7, error √(that / 8).
        assert_eq!((difference.n, difference.mean), (8, 0.5));
        assert!((difference.standard_error - (2.0f64 / 7.0 / 8.0).sqrt()).abs() < 1e-15);
        assert!(difference.lower() > 0.0 && difference.upper() < 1.0);
        assert_eq!(PairedDifference::of(&first[..7], &second[..7]), None);
    }

    #[test]
    fn manner_counts_ends_lengths_and_repetition() {
        let answers = [answer(&[5, 6, 5, 6, 5], FinishReason::ClientLimit), answer(&[7, 8, 2], FinishReason::EndToken)];
        let manner = Manner::of(&answers);
        assert_eq!((manner.n, manner.length, manner.eos_rate), (2, 4.0, 0.5));
        // (5 6) (6 5) twice each, (7 8), (8 2): 4 of 6.
        assert_eq!(manner.distinct_2, 4.0 / 6.0);
        assert_eq!(Manner::of(&[answer(&[2], FinishReason::EndToken)]).distinct_2, 1.0);
    }
}
