//! A claim as the round sees it, and the words that end it.

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

    pub(super) fn sequences(&self) -> Vec<Sequence> {
        let sequence = |scored: &ScoredRollout| {
            let rollout = scored.rollout();
            let response: Vec<TokenId> = rollout.response.iter().map(|token| token.id).collect();
            Sequence::new(&rollout.prompt, &response)
        };
        self.rollouts.iter().take(N_REPLAYABLE).map(sequence).collect()
    }
}
