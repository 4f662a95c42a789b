//! The model that the operator names, from its file to version 0 in memory.
//!
//! What keeps it from serving is found before the data directory is tied to it, and told of the file that was named: the copy that
//! is served lies under a name that nobody gave.

use std::path::Path;

use config::Config;
use policy::{
    checkpoint::{check_answers, check_whole, header_of_file},
    engine::{Engine, EngineError},
    model_error::ModelError,
};
use ppo::{Registry, RolloutLog, registry::Adoption};

use super::AppError;

/// Copies `model` into the data directory, looks the copy through, and has the engine try it: its canary has passed when this
/// returns. Later on its digest tells whether it is the model that was looked through.
///
/// # Errors
/// [`AppError::Model`] when it cannot be served; otherwise that the folder belongs to another model, or that the disk or the log
/// refuses.
pub(super) fn load(config: &Config, log: &RolloutLog, model: &Path) -> Result<(Adoption, Engine), AppError> {
    let faulty = |error| refused(model, reason(error));
    header_of_file(model).and_then(|header| check_answers(&header)).map_err(faulty)?;
    let adoption = Registry::adopt(log.clone(), model, config.ppo.keep_versions)?;
    if adoption.is_first() {
        check_whole(&adoption.file()).map_err(faulty)?;
    }
    let engine = Engine::start(&config.policy, &adoption.file()).map_err(|error| match error {
        EngineError::Load { reason, .. } => refused(model, reason),
        EngineError::Forward { .. } => refused(model, error.to_string()),
        other => other.into(),
    })?;
    Ok((adoption, engine))
}

/// Without the path of the copy.
fn reason(error: ModelError) -> String {
    match error {
        ModelError::Malformed { source, .. } => source.to_string(),
        ModelError::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

fn refused(model: &Path, reason: String) -> AppError {
    AppError::Model { path: model.to_path_buf(), reason }
}
