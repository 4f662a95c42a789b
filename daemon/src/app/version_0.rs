//! The model that the operator names, from its file to version 0 in memory.
//!
//! What keeps it from serving is found before the data directory is tied to it, and told of the file that was named: the copy that
//! is served lies under a name that nobody gave.

use std::path::Path;

use config::Config;
use policy::{
    PolicyVersion,
    checkpoint::{check_answers, check_whole, header_of_file},
    engine::{Engine, EngineError},
    model_error::ModelError,
};
use ppo::{Registry, RolloutLog, registry::Adoption};

use super::AppError;

/// Looks `model` through, copies it into the data directory, and has the engine try it: its canary has passed when this returns.
///
/// # Errors
/// [`AppError::Model`] when it cannot be served; otherwise that the folder belongs to another model, or that the disk or the log
/// refuses.
pub(super) fn load(config: &Config, log: &RolloutLog, model: &Path) -> Result<(Adoption, Engine), AppError> {
    let is_first = log.reader().version(PolicyVersion::SFT)?.is_none();
    // Later on its digest tells whether it is the model that was looked through.
    let looked = header_of_file(model).and_then(|header| check_answers(&header));
    let looked = looked.and_then(|()| if is_first { check_whole(model) } else { Ok(()) });
    looked.map_err(|error| {
        refused(
            model,
            match error {
                ModelError::Malformed { source, .. } => source.to_string(),
                ModelError::Io { source, .. } => source.to_string(),
                other => other.to_string(),
            },
        )
    })?;
    let adoption = Registry::adopt(log.clone(), model, config.ppo.keep_versions)?;
    let engine = Engine::start(&config.policy, &adoption.file()).map_err(|error| match error {
        EngineError::Load { reason, .. } => refused(model, reason),
        EngineError::Forward { .. } => refused(model, error.to_string()),
        other => other.into(),
    })?;
    Ok((adoption, engine))
}

fn refused(model: &Path, reason: String) -> AppError {
    AppError::Model { path: model.to_path_buf(), reason }
}
