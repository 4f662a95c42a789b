//! Why a file does not become a version, or not a live one.

use policy::{
    PolicyVersion,
    checkpoint::{gguf::Malformed, intake::IntakeError},
    engine::EngineError,
    model_error::ModelError,
};

use crate::{
    gate::TrialError,
    learner::LearnerError,
    registry::RegistryError,
    rollout_log::{LogError, VersionState},
};

/// Why a file does not become a version, or not a live one.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Another file is being taken.
    #[error("another file is being loaded; try again when it is done")]
    Busy,
    /// Nothing is begun any more.
    #[error("the daemon is shutting down")]
    Stopping,
    /// Every place in memory is taken by a version that stays.
    #[error("as many versions are in memory as may be (policy.residents_max); try again when a candidate has left")]
    Full,
    /// It is not opened.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// It is no model that could be a version here.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The same weights are there.
    #[error("{version} has these very weights{}", what_now(*version, *state))]
    Known {
        /// Their number.
        version: PolicyVersion,
        /// Where that stands.
        state: VersionState,
    },
    /// The gate refused it.
    #[error("{version} is rejected: {reason}")]
    Rejected {
        /// Its number.
        version: PolicyVersion,
        /// Why.
        reason: String,
    },
    /// Nobody came to a verdict: the daemon stopped, or something failed that is no fault of the weights.
    #[error("{version} is given up without a verdict: {reason}")]
    Unjudged {
        /// Its number.
        version: PolicyVersion,
        /// Why.
        reason: String,
    },
    /// It cannot be brought into memory or scored.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The trial beside the live version could not be held.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// The registry or the disk said no.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is retained, and could not be made live.
    #[error("it is retained, and could not be made live: {0}")]
    Promote(#[from] LearnerError),
}

impl ImportError {
    /// The version that has the same weights, if that is it.
    pub(super) fn known(&self) -> Option<PolicyVersion> {
        if let ImportError::Known { version, .. } = self { Some(*version) } else { None }
    }

    /// Whether the same file would come to the same end, so that nobody need try it again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            ImportError::Malformed(_) | ImportError::Known { .. } | ImportError::Rejected { .. } => true,
            ImportError::Intake(error) => !matches!(error, IntakeError::Io { .. }),
            ImportError::Registry(RegistryError::Model(error)) => !matches!(error, ModelError::Io { .. }),
            ImportError::Busy
            | ImportError::Stopping
            | ImportError::Full
            | ImportError::Unjudged { .. }
            | ImportError::Engine(_)
            | ImportError::Trial(_)
            | ImportError::Registry(_)
            | ImportError::Promote(_) => false,
        }
    }

    /// Whether a judging failed over the candidate's own weights, which is as good as a refusal.
    pub(super) fn is_about(&self, candidate: PolicyVersion) -> bool {
        match self {
            ImportError::Engine(EngineError::Forward { version, .. })
            | ImportError::Trial(TrialError::Engine { version, .. }) => *version == candidate,
            // Only the candidate is loaded.
            ImportError::Engine(EngineError::Load { .. }) => true,
            _ => false,
        }
    }
}

/// What whoever brings known weights may do, in the words of the operator's log.
fn what_now(version: PolicyVersion, state: VersionState) -> String {
    match state {
        VersionState::Live => " and is live".to_owned(),
        VersionState::Retained | VersionState::Draining => {
            format!("; activate it with `honed policies activate {}`", version.0)
        }
        VersionState::Candidate => " and is being judged".to_owned(),
        VersionState::Rejected | VersionState::Retired => {
            format!(" and is {}; POST /v1/policies has the file judged anew", state.as_str())
        }
    }
}

impl From<LogError> for ImportError {
    fn from(error: LogError) -> ImportError {
        ImportError::Registry(error.into())
    }
}

impl From<ModelError> for ImportError {
    fn from(error: ModelError) -> ImportError {
        ImportError::Registry(error.into())
    }
}
