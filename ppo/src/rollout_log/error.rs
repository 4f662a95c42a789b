//! What can go wrong in the rollout log.

use std::path::{Path, PathBuf};

use policy::{PolicyVersion, RolloutId};
use rusqlite::ErrorCode;

use super::lock::LockHolder;

/// Why the rollout log refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// SQLite said no.
    #[error("rollout log: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file system said no.
    #[error("rollout log {path}: {source}")]
    Io {
        /// What was opened, read or written.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// There is something else where the data directory should be, or it cannot be made.
    #[error("cannot use {path} as the data directory: {reason} (daemon.data_dir)")]
    NoFolder {
        /// As configured.
        path: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// It can be read once somebody who can write in the folder has opened it, or when it is copied.
    #[error(
        "data directory {dir} cannot be written, and rollouts.sqlite-wal in it holds what the database has not taken in yet, \
         which takes writing: read it as a user who can write there, or copy the folder to where you can"
    )]
    NeedsWriting {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder is no data directory.
    #[error("{dir} holds no rollouts.sqlite, so it is no data directory of honed; name yours with --data-dir")]
    Absent {
        /// The folder.
        dir: PathBuf,
    },
    /// The database is no database any more.
    #[error(
        "rollout log {path} is damaged ({source}); put a good copy in its place, or move it and the versions folder away \
         to begin anew"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        source: rusqlite::Error,
    },
    /// Another process owns the folder.
    #[error(
        "data directory {dir} is in use by another honed{holder}; stop it, or give this one its own daemon.data_dir"
    )]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// What the holder left in the lock file.
        holder: LockHolder,
    },
    /// The file was written by a newer honed.
    #[error("rollout log: schema {found} is newer than the {supported} that this honed knows; use the newer honed")]
    SchemaTooNew {
        /// Number in the file.
        found: u32,
        /// Newest number that this build can read.
        supported: u32,
    },
    /// No such rollout, neither committed nor waiting for its commit.
    #[error("rollout {}-{} is not in the log", .0.request, .0.index)]
    NotFound(RolloutId),
    /// A row holds what this code never wrote.
    #[error("rollout log row {seq}: {what}")]
    Corrupt {
        /// Row number.
        seq: i64,
        /// Which column, expected and found.
        what: String,
    },
    /// A version is not in the state that the transition starts from.
    #[error("{version}: expected state {expected}, found {found}")]
    VersionState {
        /// The version.
        version: PolicyVersion,
        /// State or states that the transition needs.
        expected: &'static str,
        /// State it has, or `absent`.
        found: String,
    },
    /// An update is not in the state that the transition starts from.
    #[error("update {number}: expected it to be {expected}")]
    UpdateState {
        /// Its number.
        number: u64,
        /// State that the transition needs.
        expected: &'static str,
    },
    /// Compare-and-set lost.
    #[error("live version: expected {expected}, found {found}")]
    LiveChanged {
        /// What the caller believed.
        expected: PolicyVersion,
        /// What is true.
        found: PolicyVersion,
    },
    /// The transaction that held the command did not commit; nothing of it is visible.
    #[error("rollout log: commit failed: {0}")]
    Commit(String),
    /// The writer's queue stayed full.
    #[error("rollout log: the writer did not accept a command in time")]
    Busy,
    /// The writer has ended.
    #[error("rollout log: closed")]
    Closed,
}

impl LogError {
    /// The same error, or that this database is damaged if that is what it says.
    pub(super) fn at(self, path: &Path) -> LogError {
        match self {
            LogError::Sqlite(source)
                if matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) =>
            {
                LogError::Damaged { path: path.to_owned(), source }
            }
            other => other,
        }
    }
}

/// The writer's queue is full: the rollout was counted and forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rollout log: queue full, the exchange is not logged")]
pub struct Full;
