//! What can go wrong in the registry.

use std::path::{Path, PathBuf};

use policy::{PolicyVersion, model_error::ModelError};

use super::LogError;

/// Why the registry refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The rows could not be read or changed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A weight file could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file system said no.
    #[error("version registry {path}: {source}")]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The versions are of other weights.
    #[error(
        "{folder} was begun with the model of digest {expected}, not {found}; version 0 itself lies at \
         {folder}/policy-0.gguf and can be given as --model (policy.model), or choose another daemon.data_dir"
    )]
    OtherModel {
        /// The versions folder.
        folder: PathBuf,
        /// Digest of version 0 there.
        expected: String,
        /// Digest of the model that was given.
        found: String,
    },
    /// The log knows no version, and the folder holds files of some.
    #[error(
        "{folder} holds {n_files} files of trained versions that rollouts.sqlite beside it knows nothing of; put the \
         rollouts.sqlite back that belongs to them, or move the folder away to begin anew"
    )]
    Unclaimed {
        /// The versions folder.
        folder: PathBuf,
        /// Files of versions other than 0.
        n_files: usize,
    },
    /// No such version.
    #[error("{0} is not in the registry")]
    Unknown(PolicyVersion),
    /// Its file is gone, as retention or a repair at the start decided.
    #[error("{version} is retired and its file removed: {reason}")]
    Retired {
        /// The version.
        version: PolicyVersion,
        /// What decided it.
        reason: String,
    },
    /// A file is missing, or holds other bytes than were written.
    #[error("{version} cannot be used: {path}: {what}")]
    Damaged {
        /// The version.
        version: PolicyVersion,
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// Whether that stays so: a file that could not be read for want of a handle, say, may be whole.
        is_lasting: bool,
    },
    /// No version is live, which only a foreign hand in the database can bring about.
    #[error("no version is live")]
    NoneLive,
}

impl RegistryError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> RegistryError {
        RegistryError::Io { path: path.to_path_buf(), source }
    }
}
