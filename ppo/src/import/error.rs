//! Why a file does not become a version, or not a live one.

use policy::{
    PolicyVersion,
    checkpoint::{gguf::Malformed, intake::IntakeError},
    engine::EngineError,
    model_error::ModelError,
};

use crate::{gate::TrialError, learner::LearnerError, registry::RegistryError, rollout_log::LogError};

/// Why a file does not become a version, or not a live one.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Another file is being taken.
    #[error("another file is being loaded; try again when it is done")]
    Busy,
    /// It is not opened.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// It is no model that could be a version here.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The same weights are there.
    #[error("{0} has these very weights")]
    Known(PolicyVersion),
    /// The gate refused it.
    #[error("{version} is rejected: {reason}")]
    Rejected {
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
