//! Why a command was not carried out.

use super::QUEUE;
use crate::{publish::PublishError, registry::RegistryError, rollout_log::LogError};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum LearnerError {
    /// Too many commands wait.
    #[error("the learner has {QUEUE} commands waiting")]
    Busy,
    /// The learner has ended.
    #[error("the learner has ended")]
    Closed,
    /// The registry or the log refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The version could not be brought into service.
    #[error(transparent)]
    Publish(Box<PublishError>),
    /// No thread.
    #[error("the learner's thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl From<PublishError> for LearnerError {
    fn from(error: PublishError) -> LearnerError {
        match error {
            // Whoever asked for a version can act on it, whichever way it came.
            PublishError::Registry(error) => LearnerError::Registry(error),
            error => LearnerError::Publish(Box::new(error)),
        }
    }
}

impl From<LogError> for LearnerError {
    fn from(error: LogError) -> LearnerError {
        LearnerError::Registry(error.into())
    }
}
