//! How far labelers agree: the ceiling of a reward model's accuracy.
//!
//! Accuracy is measured against labels, and a label that another labeler would have given the other way round cannot be
//! predicted. InstructGPT reports its reward models (72.4 %) beside the agreement of its labelers (72.6 %).

use std::collections::BTreeMap;

use policy::TokenId;

use crate::preference::Preference;

/// Pairs of responses that two people ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Pairs of responses times pairs of labelers.
    pub n_pairs: usize,
    /// Of them, those that both ordered the same way.
    pub n_agreed: usize,
}

/// Share of pairs of responses that two labelers ordered the same way, over all rankings of one prompt by different
/// labelers. A pair that one of them ties counts for neither side, as in training.
///
/// `None` when no two labelers ordered the same pair. Rankings without a labeler are left out.
#[must_use]
pub fn labeler_agreement(rankings: &[&Preference]) -> Option<Agreement> {
    let mut by_prompt: BTreeMap<&[TokenId], Vec<&Preference>> = BTreeMap::new();
    for ranking in rankings.iter().filter(|ranking| ranking.labeler.is_some()) {
        by_prompt.entry(ranking.prompt()).or_default().push(ranking);
    }
    let mut agreement = Agreement { n_pairs: 0, n_agreed: 0 };
    for own in by_prompt.values() {
        for (i, one) in own.iter().enumerate() {
            for other in own[i + 1..].iter().filter(|other| other.labeler != one.labeler) {
                agreement.add(one, other);
            }
        }
    }
    (agreement.n_pairs > 0).then_some(agreement)
}

impl Agreement {
    fn add(&mut self, one: &Preference, other: &Preference) {
        let ranks: BTreeMap<&[TokenId], u32> =
            other.responses().iter().map(Vec::as_slice).zip(other.ranks().iter().copied()).collect();
        let shared: Vec<(u32, u32)> = one
            .responses()
            .iter()
            .zip(one.ranks())
            .filter_map(|(response, rank)| Some((*rank, *ranks.get(response.as_slice())?)))
            .collect();
        for (i, (own_a, other_a)) in shared.iter().enumerate() {
            for (own_b, other_b) in &shared[i + 1..] {
                if own_a == own_b || other_a == other_b {
                    continue;
                }
                self.n_pairs += 1;
                self.n_agreed += usize::from((own_a < own_b) == (other_a < other_b));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(prompt: u32, responses: &[u32], ranks: &[u32], labeler: Option<&str>) -> Preference {
        let responses = responses.iter().map(|&id| vec![TokenId(id)]).collect();
        let mut preference = Preference::new(vec![TokenId(prompt)], responses, ranks).unwrap();
        preference.labeler = labeler.map(str::to_owned);
        preference
    }

    /// Goal: pairs are matched by response, whatever their order in the record, and ties speak for nobody. Method: by hand.
    #[test]
    fn pairs_that_two_people_ordered_are_counted() {
        let all = [
            ranking(1, &[10, 11, 12], &[1, 2, 3], Some("a")),
            ranking(1, &[12, 11, 10], &[2, 3, 1], Some("b")),
            ranking(1, &[10, 11], &[2, 1], Some("a")),
            ranking(2, &[10, 11], &[1, 2], Some("b")),
            ranking(1, &[10, 11], &[1, 2], None),
        ];
        let all: Vec<&Preference> = all.iter().collect();
        // a/b: (10,11) agreed, (10,12) agreed, (11,12) not; b with a's second ranking: (10,11) not.
        assert_eq!(labeler_agreement(&all), Some(Agreement { n_pairs: 4, n_agreed: 2 }));
    }

    #[test]
    fn ties_and_lone_labelers_say_nothing() {
        let all = [ranking(1, &[1, 2, 3], &[1, 1, 2], Some("a")), ranking(1, &[1, 2], &[1, 2], Some("b"))];
        assert_eq!(labeler_agreement(&[&all[0], &all[1]]), None);
        assert_eq!(labeler_agreement(&[&all[0], &all[0]]), None);
    }
}
