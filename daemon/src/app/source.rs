//! Where version 0 and the reward model come from: files of the operator, or the small ones that are built in.

use std::path::PathBuf;

use config::Config;

use super::AppError;

/// The file of version 0.
pub(super) fn sft(config: &Config) -> Result<PathBuf, AppError> {
    match config.policy.model.as_str() {
        "" => Err(AppError::NoModel),
        path => Ok(PathBuf::from(path)),
    }
}
