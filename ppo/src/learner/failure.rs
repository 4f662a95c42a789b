//! Why an update came to nothing, and what becomes of its claim.
//!
//! Rollouts that may be at fault are dropped when they were part of [`ATTEMPTS_MAX`] failures in a row, for otherwise they would
//! fail for ever. What they cannot be at fault for (a judge, an engine or a disk that is not there) costs none of them, however
//! long it takes.

use std::{any::Any, time::Duration};

use policy::engine::EngineError;

use super::{
    ATTEMPTS_MAX,
    batch::Batch,
    owner::{Next, Owner},
    status::LearnerState,
};
use crate::{
    error::PpoError,
    gate::TrialError,
    publish::PublishError,
    registry::RegistryError,
    rollout_log::{DropReason, Outcome},
};

/// First pause after a failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Who is waited for when the log, the registry or their files cannot be written.
const DISK: &str = "the disk of the log and the versions";

/// Why an update came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error(transparent)]
    Ppo(#[from] PpoError),
    #[error(transparent)]
    Publish(Box<PublishError>),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("panic: {0}")]
    Panic(String),
}

impl From<PublishError> for AttemptError {
    fn from(error: PublishError) -> AttemptError {
        AttemptError::Publish(Box::new(error))
    }
}

impl AttemptError {
    /// Whether a command came first, and nothing is wrong.
    pub(super) fn is_interrupted(&self) -> bool {
        match self {
            AttemptError::Ppo(PpoError::Interrupted) => true,
            AttemptError::Publish(error) => matches!(**error, PublishError::Interrupted),
            _ => false,
        }
    }

    /// Who is waited for, where the rollouts of the claim cannot be at fault; `None` where they may be.
    fn waits_for(&self) -> Option<&'static str> {
        let AttemptError::Publish(error) = self else {
            return matches!(self, AttemptError::Registry(_)).then_some(DISK);
        };
        match &**error {
            // Of the claim's own sequences.
            PublishError::Parity(_) => None,
            // Whoever judges is there, and answers the same to the same trial; another claim has another.
            PublishError::Trial(TrialError::Judge(error)) if error.is_final() => None,
            // Of the candidate's own weights.
            PublishError::Engine(EngineError::Forward { .. }) => None,
            PublishError::Engine(error) if error.lacks_room() => Some("room in memory"),
            PublishError::Trial(TrialError::Judge(_) | TrialError::Scorer(_)) => Some("whoever judges the trial"),
            PublishError::Trial(TrialError::Log(_)) | PublishError::Registry(_) | PublishError::Model(_) => Some(DISK),
            PublishError::Trial(TrialError::Engine { .. }) | PublishError::Engine(_) => Some("the engine"),
            PublishError::Trial(TrialError::Interrupted) | PublishError::Interrupted => Some("nobody"),
        }
    }

    /// What a caught panic says.
    pub(super) fn panic(payload: &(dyn Any + Send)) -> AttemptError {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_string());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        AttemptError::Panic(text.unwrap_or_else(|| "no message".to_string()))
    }
}

impl Owner {
    pub(super) fn back_off(&mut self, reason: String, at_least: Duration) -> Duration {
        let pause = (PAUSE_MIN * 2_u32.pow(self.n_failures.min(6))).min(PAUSE_MAX).max(at_least);
        tracing::error!(reason, pause_s = pause.as_secs(), "learning failed and will be tried again; serving goes on");
        self.board.set_state(LearnerState::Failed(reason));
        // It looks at nothing meanwhile.
        self.save();
        pause
    }

    /// The claim of an update that failed goes back, unless it may be at fault and has failed too often. `took`: what the attempt
    /// cost.
    pub(super) fn fail(&mut self, update: u64, batch: &Batch, error: &AttemptError, took: Duration) -> Next {
        self.n_failures += 1;
        if let Some(who) = error.waits_for() {
            self.abandon(update, batch, Outcome::Released);
            let reason = format!("{error}; the rollouts are kept, and learning waits for {who}");
            return Next::Wait { reason, at_least: took };
        }
        self.n_suspicions += 1;
        let outcome = match self.n_suspicions.is_multiple_of(ATTEMPTS_MAX) {
            true => Outcome::Dropped(DropReason::UpdateFailed),
            false => Outcome::Released,
        };
        self.abandon(update, batch, outcome);
        Next::BackOff(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use policy::PolicyVersion;
    use reward::ScoreError;

    use super::*;

    /// Goal: what would fail in the same way for ever ends with the claim that it comes from, and an outage costs no claim. Method:
    /// one error of each kind.
    #[test]
    fn outages_are_told_from_what_a_claim_brings_about() {
        let waits_for = |error: PublishError| AttemptError::from(error).waits_for();
        let judge = |error| waits_for(PublishError::Trial(TrialError::Judge(error)));
        assert_eq!(judge(ScoreError::Refused { status: 413 }), None);
        assert_eq!(judge(ScoreError::Remote("no route".to_owned())), Some("whoever judges the trial"));
        let engine = |error| waits_for(PublishError::Engine(error));
        let forward = EngineError::Forward { version: PolicyVersion(1), reason: "not finite".to_owned() };
        assert_eq!(engine(forward), None);
        let crowded = EngineError::Crowded { version: PolicyVersion(3), places: 2, residents: vec![PolicyVersion(1)] };
        assert_eq!(engine(crowded), Some("room in memory"));
        assert_eq!(engine(EngineError::Backend("gone".to_owned())), Some("the engine"));
        assert_eq!(AttemptError::Panic("a bug".to_owned()).waits_for(), None);
    }
}
