//! One person's order of K responses to one prompt: the datum of the ranking loss.
//!
//! InstructGPT has K = 4..=9 (section 3.5); the API takes 2..=16. The record keeps the whole ranking and never its pairs:
//! pairs of one prompt belong in one batch element.

use policy::TokenId;

use crate::{margin::Margin, ranking_trainer::Ranking};

/// Fewest responses that have an order.
pub const N_RESPONSES_MIN: usize = 2;
/// Most responses that a person orders at once.
pub const N_RESPONSES_MAX: usize = 16;

/// A ranking that says something: at least one response is better than another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    prompt: Vec<TokenId>,
    responses: Vec<Vec<TokenId>>,
    ranks: Vec<u32>,
    /// Who ranked, for held-out-labeler accuracy and caps per user.
    pub labeler: Option<String>,
    /// Gap that is asked of the scores per step of rank: between the two of a pair. `None`: what is asked of all rankings.
    pub margin: Option<Margin>,
}

/// Why something is not a ranking.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreferenceError {
    /// Too few or too many responses.
    #[error("expected {N_RESPONSES_MIN} to {N_RESPONSES_MAX} responses, got {0}")]
    Count(usize),
    /// One rank per response is needed.
    #[error("expected one rank for each of {responses} responses, got {ranks}")]
    Ranks {
        /// Responses.
        responses: usize,
        /// Ranks.
        ranks: usize,
    },
    /// The order names a response that is not there, or one twice, or forgets one.
    #[error("the order must name each of {responses} responses once; {index} is {fault}")]
    Order {
        /// Responses.
        responses: usize,
        /// The index at fault.
        index: usize,
        /// `missing`, `repeated` or `unknown`.
        fault: &'static str,
    },
    /// Nothing is better than anything else.
    #[error("all responses tie: the ranking says nothing")]
    AllTied,
}

impl Preference {
    /// A ranking from ranks: 1 is best, equal ranks are a tie; only their order counts.
    pub fn new(
        prompt: Vec<TokenId>,
        responses: Vec<Vec<TokenId>>,
        ranks: &[u32],
    ) -> Result<Preference, PreferenceError> {
        if !(N_RESPONSES_MIN..=N_RESPONSES_MAX).contains(&responses.len()) {
            return Err(PreferenceError::Count(responses.len()));
        }
        if ranks.len() != responses.len() {
            return Err(PreferenceError::Ranks { responses: responses.len(), ranks: ranks.len() });
        }
        let ranks = dense(ranks);
        if ranks.iter().all(|rank| *rank == 1) {
            return Err(PreferenceError::AllTied);
        }
        Ok(Preference { prompt, responses, ranks, labeler: None, margin: None })
    }

    /// A ranking from groups of response indices, best group first, ties sharing a group.
    pub fn from_order(
        prompt: Vec<TokenId>,
        responses: Vec<Vec<TokenId>>,
        order: &[Vec<usize>],
    ) -> Result<Preference, PreferenceError> {
        let mut ranks = vec![0; responses.len()];
        let fault = |index, fault| PreferenceError::Order { responses: responses.len(), index, fault };
        for (rank, group) in (1..).zip(order) {
            for &index in group {
                match ranks.get_mut(index) {
                    None => return Err(fault(index, "unknown")),
                    Some(0) => ranks[index] = rank,
                    Some(_) => return Err(fault(index, "repeated")),
                }
            }
        }
        if let Some(index) = ranks.iter().position(|rank| *rank == 0) {
            return Err(fault(index, "missing"));
        }
        Preference::new(prompt, responses, &ranks)
    }

    /// The prompt, special tokens included.
    #[must_use]
    pub fn prompt(&self) -> &[TokenId] {
        &self.prompt
    }

    /// `[k]` responses; end tokens included where the response ended.
    #[must_use]
    pub fn responses(&self) -> &[Vec<TokenId>] {
        &self.responses
    }

    /// `[k]`, 1 is best, without gaps; equal ranks are a tie.
    #[must_use]
    pub fn ranks(&self) -> &[u32] {
        &self.ranks
    }
}

impl From<&Preference> for Ranking {
    fn from(preference: &Preference) -> Ranking {
        let ranking = Ranking::new(&preference.prompt, &preference.responses, &preference.ranks);
        Ranking { margin: preference.margin, ..ranking }
    }
}

/// The same order with ranks 1, 2, 3 … and no gaps, so that a margin per step of rank means a step.
fn dense(ranks: &[u32]) -> Vec<u32> {
    let mut levels = ranks.to_vec();
    levels.sort_unstable();
    levels.dedup();
    let rank_of = |rank| (1..).zip(&levels).find(|(_, level)| **level == rank);
    ranks.iter().map(|rank| rank_of(*rank).expect("every rank is a level").0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn responses(n: u32) -> Vec<Vec<TokenId>> {
        (0..n).map(|id| vec![TokenId(id)]).collect()
    }

    #[test]
    fn ranks_lose_their_gaps_and_keep_their_ties() {
        let preference = Preference::new(Vec::new(), responses(4), &[30, 7, 7, 9]).expect("an order");
        assert_eq!(preference.ranks(), [3, 1, 1, 2]);
    }

    #[test]
    fn an_order_of_groups_becomes_ranks() {
        let order = [vec![2], vec![0, 1], vec![3]];
        let preference = Preference::from_order(Vec::new(), responses(4), &order).expect("an order");
        assert_eq!(preference.ranks(), [2, 2, 1, 3]);
        let ranking = Ranking::from(&preference);
        assert_eq!((ranking.sequences, ranking.ranks), (responses(4), vec![2, 2, 1, 3]));
    }

    #[test]
    fn what_is_no_ranking_is_refused() {
        let order = |n, order: &[Vec<usize>]| {
            Preference::from_order(Vec::new(), responses(n), order).expect_err("no ranking").to_string()
        };
        assert!(order(2, &[vec![0], vec![2]]).contains("2 is unknown"));
        assert!(order(2, &[vec![0], vec![0]]).contains("0 is repeated"));
        assert!(order(3, &[vec![0], vec![2]]).contains("1 is missing"));
        assert!(order(2, &[vec![1, 0]]).contains("tie"));
        assert!(order(1, &[vec![0]]).contains("got 1"));
        assert!(order(17, &[(0..17).collect()]).contains("got 17"));
        let ranks = Preference::new(Vec::new(), responses(3), &[1, 2]).expect_err("a rank is missing");
        assert_eq!(ranks, PreferenceError::Ranks { responses: 3, ranks: 2 });
    }
}
