//! What can go wrong in a demonstration.

use std::{io, path::PathBuf};

use policy::{engine::EngineError, model_error::ModelError};

use crate::{cli::Misuse, sampling::DrawError};

/// Why a demonstration or a build from scratch ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is wrong. Not transparent: the exit code is found by the cause.
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    /// It was called wrongly.
    #[error("{0}")]
    Call(#[from] Misuse),
    /// The trainer refused.
    #[error("training: {0}")]
    Model(#[from] ModelError),
    /// The engine did not start or load.
    #[error("serving: {0}")]
    Engine(#[from] EngineError),
    /// Answers could not be drawn.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// The reward model could not be trained or normalised.
    #[error("reward model: {0}")]
    Reward(String),
    /// The daemon of the demonstration did not come up, or stopped.
    #[error("the daemon: {0}")]
    Daemon(String),
    /// A request that the run cannot do without failed.
    #[error("{route}: {reason}")]
    Http {
        /// Method and path.
        route: String,
        /// What came back.
        reason: String,
    },
}

/// Short for results here.
pub(super) type Result<T> = std::result::Result<T, DemoError>;

impl DemoError {
    /// An I/O error at a path.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DemoError {
        let path = path.into();
        move |source| DemoError::Io { path, source }
    }
}
