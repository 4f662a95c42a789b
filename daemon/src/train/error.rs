//! Why a training run ended before its end.

use std::{io, path::PathBuf};

use policy::{engine::EngineError, model_error::ModelError};
use reward::RewardModelError;

use crate::{app::AppError, cli::Misuse, sampling::DrawError};

/// What failed, in words for whoever started it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrainError {
    /// A line of a data file breaks a rule.
    #[error("{}, line {line}: {rule}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The field and the rule that it breaks.
        rule: String,
    },
    /// A data file has nothing to learn from.
    #[error("{}: {reason}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The result cannot be written where it should go.
    #[error("--out {}: {reason}", path.display())]
    Output {
        /// As given.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The weights cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Weights {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The numbers of a run are none any more.
    #[error("{source}; {} is not written", path.display())]
    Diverged {
        /// Where its weights would be.
        path: PathBuf,
        /// Which number, and what may help.
        source: Box<ModelError>,
    },
    /// The model to start from cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Base {
        /// As given.
        path: PathBuf,
        /// Why not.
        source: Box<ModelError>,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The trainer failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The reward model could not be made or written.
    #[error(transparent)]
    RewardModel(#[from] RewardModelError),
    /// The scores have no scale.
    #[error("the reward model cannot be normalised: {0}")]
    Normalization(String),
    /// The vocabulary or the engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Answers could not be drawn.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// The learner's parts could not be started.
    #[error(transparent)]
    App(#[from] Box<AppError>),
    /// The configuration is wrong. Not transparent: the exit code is found by the cause.
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    /// Settings that cannot be had together, or not here.
    #[error("{0}")]
    Settings(#[source] Misuse),
    /// A guard rail has halted learning.
    #[error("learning was halted: {0}; once that is seen to, give the same command with --resume to go on")]
    Halted(String),
    /// The learner cannot go on.
    #[error("the learner cannot go on: {0}")]
    Learner(String),
    /// Ctrl-C.
    #[error("interrupted after step {step} of {n_steps}; {kept}")]
    Interrupted {
        /// Steps done.
        step: usize,
        /// Steps that there would have been.
        n_steps: usize,
        /// Where the last whole file lies.
        kept: String,
    },
}

/// Shorthand here.
pub(super) type Result<T> = std::result::Result<T, TrainError>;

impl TrainError {
    /// A model file that cannot be used.
    pub(super) fn base(path: impl Into<PathBuf>) -> impl FnOnce(ModelError) -> TrainError {
        let path = path.into();
        move |source| TrainError::Base { path, source: Box::new(source) }
    }

    /// An error of a run that would have written this file.
    pub(super) fn run(path: impl Into<PathBuf>) -> impl FnOnce(ModelError) -> TrainError {
        let path = path.into();
        move |error| match error {
            ModelError::Diverged { .. } => TrainError::Diverged { path, source: Box::new(error) },
            other => other.into(),
        }
    }

    /// An I/O error at a path.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> TrainError {
        let path = path.into();
        move |source| TrainError::Io { path, source }
    }
}
