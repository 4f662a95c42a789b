//! Where version 0 and the reward model come from: files of the operator, or the small ones that are built in.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;
use config::{Config, Origin};
use policy::checkpoint::{Checkpoint, write_durably};
use ppo::{learner::ValueStart, models::frozen};
use reward::{
    Combination, NamedJudge, RewardModel, RewardModelError, Rules,
    sources::model::{ModelFile, load},
};

use super::AppError;
use crate::demo::artefacts;

/// The file of version 0. The built-in one is written into the data directory, because llama.cpp reads files only.
pub(super) fn sft(config: &Config) -> Result<PathBuf, AppError> {
    if !config.policy.model.is_empty() {
        check_file("policy.model", &config.policy.model)?;
        return Ok(PathBuf::from(&config.policy.model));
    }
    let path = Path::new(&config.daemon.data_dir).join("built-in.gguf");
    if std::fs::read(&path).ok().as_deref() != Some(artefacts::POLICY) {
        write_durably(&path, artefacts::POLICY)
            .map_err(|error| AppError::Write { path: path.clone(), reason: error.to_string() })?;
    }
    Ok(path)
}

/// Looks before anything opens it: a FIFO, for one, would wait for its writer for ever.
pub(super) fn check_file(key: &'static str, path: &str) -> Result<(), AppError> {
    let refused = |reason: String| AppError::NotAFile { key, path: path.to_owned(), reason };
    let found = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if found.is_file() { Ok(()) } else { Err(refused("it is not a regular file".to_owned())) }
}

/// What judges.
pub(super) enum Judges {
    /// The reward model, perhaps beside others.
    Model(Arc<RewardModel>, NamedJudge),
    /// Others only: a server, or people.
    Others,
    /// Nobody could: the built-in reward model does not fit a model that is not ours, and nothing else is configured.
    Nobody,
}

impl Judges {
    /// As the reward model, where there is one.
    pub(super) fn value_start(&self) -> Result<ValueStart, AppError> {
        let Judges::Model(model, _) = self else { return Ok(ValueStart::Policy) };
        let start = model.value_start().map_err(|error| AppError::Learner(error.to_string()))?;
        let base = model.base().cloned().map(Box::new);
        Ok(ValueStart::RewardModel { checkpoint: Box::new(start.0), normalization: start.1, base })
    }
}

/// Finds who judges a policy with this vocabulary. `sft`: version 0's file, whose weights a reward model that is an adapter
/// shares with the learner's roles.
pub(super) fn judges(config: &Config, vocabulary_digest: &str, sft: &Path) -> Result<Judges, AppError> {
    if !Rules::new(&config.reward).needs_model() {
        return Ok(Judges::Others);
    }
    if config.reward.model.is_empty() && !config.policy.model.is_empty() {
        return nobody(config);
    }
    if !config.reward.model.is_empty() {
        check_file("reward.model", &config.reward.model)?;
    }
    let base = || {
        let base = frozen(&Checkpoint::read(sft)?, &config.ppo, &Device::Cpu);
        base.map_err(|error| RewardModelError::Weights(error.to_string()))
    };
    let file = ModelFile::configured(&config.reward, artefacts::REWARD);
    let loaded = load(file, Combination::configured(&config.reward), vocabulary_digest, base);
    let (model, judge) = loaded.map_err(|error| AppError::RewardModel {
        path: if config.reward.model.is_empty() { "built-in".to_owned() } else { config.reward.model.clone() },
        reason: error.to_string(),
    })?;
    Ok(Judges::Model(model, judge))
}

/// Whoever only wants to serve a model of theirs should not have to know about rewards; whoever asked for learning or for a
/// source of scores should be told that it cannot be had.
fn nobody(config: &Config) -> Result<Judges, AppError> {
    let asked = |key: &str| config.origins.of(key) != Origin::Default;
    if (config.ppo.enabled && asked("ppo.enabled")) || asked("reward.source") {
        return Err(AppError::NoJudge);
    }
    if config.ppo.enabled {
        tracing::warn!("serving WITHOUT LEARNING: {}", AppError::NoJudge);
    }
    Ok(Judges::Nobody)
}
