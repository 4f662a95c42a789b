//! Why an update came to nothing.

use std::any::Any;

use crate::{error::PpoError, publish::PublishError, registry::RegistryError};

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

    /// What a caught panic says.
    pub(super) fn panic(payload: &(dyn Any + Send)) -> AttemptError {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_string());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        AttemptError::Panic(text.unwrap_or_else(|| "no message".to_string()))
    }
}
