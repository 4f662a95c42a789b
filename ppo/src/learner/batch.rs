//! A claim as the round sees it, and the words that end it.

use std::collections::BTreeMap;

use policy::{TokenId, sequence_batch::Sequence};
use reward::ScoredRollout;

use crate::{
    replay::scored,
    rollout_log::{LoggedRollout, Outcome, Seq},
    update::Fate,
};

/// Sequences that the parity check may choose from.
const N_REPLAYABLE: usize = 8;

/// A claim as the round sees it, in the claim's order.
pub(super) struct Batch {
    pub(super) seqs: Vec<Seq>,
    pub(super) rollouts: Vec<ScoredRollout>,
}

impl Batch {
    pub(super) fn new(rows: Vec<LoggedRollout>) -> Batch {
        let (mut seqs, mut rollouts) = (Vec::new(), Vec::new());
        for row in rows {
            seqs.push(row.seq);
            rollouts.push(scored(row));
        }
        Batch { seqs, rollouts }
    }

    pub(super) fn all(&self, outcome: Outcome) -> Vec<(Seq, Outcome)> {
        self.seqs.iter().map(|seq| (*seq, outcome)).collect()
    }

    /// The end of the claim, rollout by rollout; `trained` is the end of those that took part.
    pub(super) fn settled(&self, fates: &[Fate], trained: Outcome) -> Vec<(Seq, Outcome)> {
        let outcome = |fate: &Fate| match fate {
            Fate::Trained => trained,
            Fate::Dropped(reason) => Outcome::Dropped(*reason),
        };
        self.seqs.iter().copied().zip(fates.iter().map(outcome)).collect()
    }

    /// Mean over the claim of the ensemble's variance, score units squared: rises when the policy leaves what the reward
    /// model was trained on. Empty where one judge speaks alone.
    pub(super) fn score_numbers(&self) -> BTreeMap<String, f64> {
        let variances: Vec<f64> =
            self.rollouts.iter().filter_map(|rollout| rollout.scored().std).map(|std| std * std).collect();
        if variances.is_empty() {
            return BTreeMap::new();
        }
        let mean = variances.iter().sum::<f64>() / variances.len() as f64;
        BTreeMap::from([("objective/scores_member_variance".to_string(), mean)])
    }

    /// Without those that begin with nothing: the engine has no log-prob for a first token.
    pub(super) fn sequences(&self) -> Vec<Sequence> {
        let begun = self.rollouts.iter().filter(|scored| !scored.rollout().prompt.is_empty());
        begun.take(N_REPLAYABLE).map(sequence).collect()
    }

    /// Prompts of the rollouts that took part.
    pub(super) fn trained_prompts(&self, fates: &[Fate]) -> Vec<&[TokenId]> {
        let trained = self.rollouts.iter().zip(fates).filter(|(_, fate)| **fate == Fate::Trained);
        trained.map(|(scored, _)| scored.rollout().prompt.as_slice()).collect()
    }
}

fn sequence(scored: &ScoredRollout) -> Sequence {
    let rollout = scored.rollout();
    let response: Vec<TokenId> = rollout.response.iter().map(|token| token.id).collect();
    Sequence::new(&rollout.prompt, &response)
}

#[cfg(test)]
mod tests {
    use policy::{FinishReason, PolicyVersion, Rollout, RolloutId, SamplingParams};
    use reward::{Score, Scored};

    use super::*;

    #[test]
    fn the_variance_of_an_ensemble_is_averaged_over_the_claim() {
        let rollout = Rollout {
            id: RolloutId { request: "cmpl-0".to_string(), index: 0 },
            version: PolicyVersion::SFT,
            prompt: Vec::new(),
            response: Vec::new(),
            sampling: SamplingParams::default(),
            finish: FinishReason::EndToken,
            user: None,
            created_ms: 0,
        };
        let batch = |stds: &[Option<f64>]| {
            let judged = stds.iter().map(|&std| {
                let scored = Scored { score: Score(0.0), std, reward_version: "model@0".to_string() };
                ScoredRollout::new(rollout.clone(), scored).unwrap()
            });
            Batch { seqs: Vec::new(), rollouts: judged.collect() }
        };
        let numbers = batch(&[Some(1.0), None, Some(3.0)]).score_numbers();
        assert_eq!(numbers["objective/scores_member_variance"], 5.0);
        assert!(batch(&[None]).score_numbers().is_empty());
    }
}
