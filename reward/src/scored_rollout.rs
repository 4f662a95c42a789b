//! A rollout that was judged: what `ppo` may learn from.
//!
//! The fields are private and the only constructor is here, so a batch that skipped the judgement does not compile, and
//! one whose judgement was lost on the way (NaN is NULL to a database) does not construct.

use policy::Rollout;

use crate::score::{ScoreError, Scored};

/// One exchange with a finite score.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredRollout {
    rollout: Rollout,
    scored: Scored,
}

impl ScoredRollout {
    /// Joins an exchange with its judgement, fresh from the scorer or as the rollout log kept both.
    pub fn new(rollout: Rollout, scored: Scored) -> Result<ScoredRollout, ScoreError> {
        ScoreError::check("stored", scored.score.0)?;
        Ok(ScoredRollout { rollout, scored })
    }

    /// The exchange.
    #[must_use]
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Its judgement.
    #[must_use]
    pub fn scored(&self) -> &Scored {
        &self.scored
    }

    /// Both halves.
    #[must_use]
    pub fn into_parts(self) -> (Rollout, Scored) {
        (self.rollout, self.scored)
    }
}

#[cfg(test)]
mod tests {
    use policy::{FinishReason, PolicyVersion, RolloutId, SamplingParams};

    use super::*;
    use crate::score::Score;

    #[test]
    fn a_rollout_without_a_finite_score_is_not_a_scored_rollout() {
        let rollout = Rollout {
            id: RolloutId { request: "cmpl-0".to_owned(), index: 0 },
            version: PolicyVersion::SFT,
            prompt: Vec::new(),
            response: Vec::new(),
            sampling: SamplingParams::default(),
            finish: FinishReason::EndToken,
            user: None,
            created_ms: 0,
        };
        let judged = |score| {
            let scored = Scored { score: Score(score), std: None, reward_version: "remote".to_owned() };
            ScoredRollout::new(rollout.clone(), scored)
        };
        assert_eq!(judged(-2.5).expect("finite").into_parts().1.score, Score(-2.5));
        assert!(judged(f64::NAN).is_err());
        assert!(judged(f64::NEG_INFINITY).is_err());
    }
}
