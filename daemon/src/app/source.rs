//! Where version 0 and the reward model come from: files of the operator, or the small ones that are built in.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use config::{Config, Origin};
use policy::Vocabulary;
use reward::{NamedJudge, Rules};

use super::AppError;

/// The file of version 0. The built-in one is written into the data directory, because llama.cpp reads files only.
pub(super) fn sft(config: &Config) -> Result<PathBuf, AppError> {
    match config.policy.model.as_str() {
        "" => unreachable!("artefacts"),
        path => Ok(PathBuf::from(path)),
    }
}
