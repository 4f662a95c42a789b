//! Two versions' answers to the same questions, compared.

use std::collections::{BTreeMap, HashMap, HashSet};

use policy::{FinishReason, Rollout, TokenId};

use super::questions::Asked;
use crate::length_penalty::{LengthPenalty, cost_of};

/// Independent pairs below which no interval is worth its name.
pub const PAIRS_MIN: usize = 8;
/// Quantile of the normal distribution for a two-sided 95 % interval.
const Z_95: f64 = 1.96;

/// One question, answered by both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The place of the first pair with this prompt.
    pub prompt: usize,
    /// The place of the first one with the same answers to it, too.
    pub draw: usize,
    /// Reward of the first − reward of the second; until they are judged, what their lengths make of it.
    pub difference: f64,
}

impl Pair {
    /// Of answers that belong together, not judged yet. `length_penalty`: what is taken off the reward of each.
    #[must_use]
    pub fn unjudged(first: &[Rollout], second: &[Rollout], length_penalty: Option<LengthPenalty>) -> Vec<Pair> {
        let ids = |rollout: &Rollout| rollout.response.iter().map(|token| token.id).collect::<Vec<TokenId>>();
        let cost = |rollout: &Rollout| cost_of(length_penalty, rollout.response.len());
        let (mut prompts, mut draws) = (HashMap::new(), HashMap::new());
        let pair = |(i, (first, second)): (usize, (&Rollout, &Rollout))| {
            let prompt = *prompts.entry(first.prompt.clone()).or_insert(i);
            let draw = *draws.entry((prompt, ids(first), ids(second))).or_insert(i);
            Pair { prompt, draw, difference: cost(second) - cost(first) }
        };
        first.iter().zip(second).enumerate().map(pair).collect()
    }
}

/// A mean of paired differences, with what is known about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDifference {
    /// Differences that are independent of each other.
    pub n: usize,
    /// Mean of first − second.
    pub mean: f64,
    /// Standard error of that mean, from the sample's deviation.
    pub standard_error: f64,
}

impl PairedDifference {
    /// The mean over prompts of the mean over each one's pairs: answers to one prompt resemble each other, so that asking it
    /// again makes its own difference surer and no other one. `None` below [`PAIRS_MIN`].
    ///
    /// Where traffic has fewer prompts than that, over the pairs of different answers: what is found is then true of these
    /// prompts, and there are no others that it had to be true of. The same answers again are never another pair.
    #[must_use]
    pub fn of(pairs: &[Pair]) -> Option<PairedDifference> {
        let by_prompt = means_by(pairs, |pair| pair.prompt);
        let differences = if by_prompt.len() < PAIRS_MIN { means_by(pairs, |pair| pair.draw) } else { by_prompt };
        let n = differences.len();
        if n < PAIRS_MIN {
            return None;
        }
        let mean = differences.iter().sum::<f64>() / n as f64;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
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

/// Mean difference of the pairs that share a key, in order of the keys.
fn means_by(pairs: &[Pair], key: impl Fn(&Pair) -> usize) -> Vec<f64> {
    let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for pair in pairs {
        let (sum, n) = sums.entry(key(pair)).or_default();
        (*sum, *n) = (*sum + pair.difference, *n + 1.0);
    }
    sums.into_values().map(|(sum, n)| sum / n).collect()
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
    /// What they were asked.
    pub asked: Asked,
    /// Seconds that half of the decode steps of candidate and live version took at most meanwhile, in the batch size that both had
    /// most of; `None` where they had none in common.
    pub step_seconds: Option<[f64; 2]>,
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

    /// So many pairs of this difference, of one prompt, all drawn anew.
    fn pairs(prompt: usize, n: usize, difference: f64) -> Vec<Pair> {
        (0..n).map(|i| Pair { prompt, draw: prompt + i, difference }).collect()
    }

    #[test]
    fn a_paired_difference_by_hand() {
        let all: Vec<Pair> = (0..8).flat_map(|i| pairs(i, 1, ((i + 1) % 2) as f64)).collect();
        let difference = PairedDifference::of(&all).unwrap();
        // Differences 1 and 0 in turn: variance 8 · 0.25 / 7, error √(that / 8).
        assert_eq!((difference.n, difference.mean), (8, 0.5));
        assert!((difference.standard_error - (2.0f64 / 7.0 / 8.0).sqrt()).abs() < 1e-15);
        assert!(difference.lower() > 0.0 && difference.upper() < 1.0);
        assert_eq!(PairedDifference::of(&all[..7]), None);
    }

    /// Goal: a prompt that is asked often weighs no more than others, and asked again it makes nothing surer than it is. Method: the
    /// eight differences above, with the first prompt asked a hundred times; one prompt alone, with new answers each time and with
    /// the same ones.
    #[test]
    fn copies_of_a_question_are_not_independent() {
        let once: Vec<Pair> = (0..8).flat_map(|i| pairs(1000 * i, 1, ((i + 1) % 2) as f64)).collect();
        let often = [pairs(0, 100, 1.0), once[1..].to_vec()].concat();
        assert_eq!(PairedDifference::of(&often), PairedDifference::of(&once));
        assert_eq!(PairedDifference::of(&pairs(0, 32, -1.0)).unwrap().n, 32, "all that is asked is this prompt");
        let same = vec![Pair { prompt: 0, draw: 0, difference: -1.0 }; 32];
        assert_eq!(PairedDifference::of(&same), None, "one greedy prompt was asked once, however often");
    }

    #[test]
    fn pairs_know_their_prompt_and_whether_they_were_drawn_before() {
        let asked = |prompt: u32, said: u32| Rollout {
            prompt: vec![TokenId(prompt)],
            ..answer(&[said], FinishReason::EndToken)
        };
        let first = [asked(1, 5), asked(2, 5), asked(1, 5), asked(1, 5), asked(1, 6)];
        let second = [asked(1, 7), asked(2, 7), asked(1, 7), asked(1, 8), asked(1, 7)];
        let pairs = Pair::unjudged(&first, &second, None);
        let found: Vec<_> = pairs.iter().map(|pair| (pair.prompt, pair.draw)).collect();
        assert_eq!(found, [(0, 0), (1, 1), (0, 0), (0, 3), (0, 4)]);
        assert!(pairs.iter().all(|pair| pair.difference == 0.0));
    }

    /// Goal: who is paid for shorter answers is compared by that pay. Method: pairs of which the first, the second and both are long.
    #[test]
    fn the_shorter_answer_of_a_pair_is_ahead_by_what_it_saves() {
        let long = answer(&[5; 9], FinishReason::EndToken);
        let [shorter, short] = [&[5; 3][..], &[5; 2]].map(|ids| answer(ids, FinishReason::EndToken));
        let config = config::Ppo { length_penalty: 0.5, length_free: 2, ..config::Config::default().ppo };
        let first = [short.clone(), long.clone(), long.clone(), short.clone()];
        let second = [long.clone(), shorter, long, short];
        let pairs = Pair::unjudged(&first, &second, LengthPenalty::of(&config));
        assert_eq!(pairs.iter().map(|pair| pair.difference).collect::<Vec<_>>(), [3.5, -3.0, 0.0, 0.0]);
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
