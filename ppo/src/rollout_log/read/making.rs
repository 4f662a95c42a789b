//! What made a version: its update, as far as the record of that says, and the file that came of it.

use std::path::Path;

use policy::{PolicyVersion, RolloutId};
use rusqlite::{OptionalExtension, params};

use super::LogReader;
use crate::rollout_log::{
    LogError,
    record::Seq,
    schema,
    state::RolloutState,
    version_row::{VersionRow, VersionState},
};

/// A version with its file and what made it.
#[derive(Clone, Debug, PartialEq)]
pub struct MadeVersion {
    /// Its row.
    pub row: VersionRow,
    /// Bytes of its file; `None` when that is gone.
    pub bytes: Option<u64>,
    /// `None` of version 0, of what was brought from outside, and of what an older honed made.
    pub making: Option<Making>,
}

impl From<VersionRow> for MadeVersion {
    /// Of which nothing else is known.
    fn from(row: VersionRow) -> MadeVersion {
        MadeVersion { row, bytes: None, making: None }
    }
}

/// The update that made a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Making {
    /// Its number.
    pub update: u64,
    /// Digest of the configuration that it ran with.
    pub config_digest: String,
    /// Who had given the scores, each once, in order.
    pub reward_versions: Vec<String>,
}

/// One rollout of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedByUpdate {
    /// Its position in the log.
    pub seq: Seq,
    /// Its name and where it stands; `None` when it has left the log.
    pub row: Option<(RolloutId, RolloutState)>,
}

const UPDATE: &str = "SELECT number, config FROM updates WHERE version = ?1 ORDER BY number DESC LIMIT 1";

const JUDGES: &str = "SELECT DISTINCT reward_version FROM update_rollouts
    WHERE number = ?1 ORDER BY reward_version";

impl LogReader {
    /// What is known of a version beyond its row; `folder`: where the files of versions lie.
    pub fn describe(&self, row: VersionRow, folder: &Path) -> Result<MadeVersion, LogError> {
        let may_have_file = !matches!(row.state, VersionState::Rejected | VersionState::Retired);
        let file = may_have_file.then(|| folder.join(&row.path));
        let bytes = file.and_then(|file| std::fs::metadata(file).ok()).map(|metadata| metadata.len());
        Ok(MadeVersion { bytes, making: self.making(row.version)?, row })
    }

    fn making(&self, version: PolicyVersion) -> Result<Option<Making>, LogError> {
        if !self.has(schema::WITH_UPDATES) {
            return Ok(None);
        }
        let found: Option<(i64, String)> = self
            .connection
            .prepare_cached(UPDATE)?
            .query_row([version.0 as i64], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((number, config_digest)) = found else { return Ok(None) };
        let mut statement = self.connection.prepare_cached(JUDGES)?;
        let reward_versions = statement.query_map([number], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(Some(Making { update: number as u64, config_digest, reward_versions }))
    }

    /// The rollouts of an update, in its order, without what they hold.
    pub fn used_by(&self, update: u64) -> Result<Vec<UsedByUpdate>, LogError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, request, choice, state FROM update_rollouts LEFT JOIN rollouts USING (seq)
             WHERE number = ?1 ORDER BY position",
        )?;
        let mut found = statement.query(params![update as i64])?;
        let mut used = Vec::new();
        while let Some(row) = found.next()? {
            let seq: i64 = row.get(0)?;
            let request: Option<String> = row.get(1)?;
            let row = match request {
                None => None,
                Some(request) => {
                    let word: String = row.get(3)?;
                    let corrupt = || LogError::Corrupt { seq, what: format!("state {word:?} is unknown") };
                    let state = RolloutState::parse(&word).ok_or_else(corrupt)?;
                    Some((RolloutId { request, index: row.get(2)? }, state))
                }
            };
            used.push(UsedByUpdate { seq: Seq(seq), row });
        }
        Ok(used)
    }

    #[cfg(test)]
    pub(in crate::rollout_log) fn making_sql() -> [&'static str; 2] {
        [UPDATE, JUDGES]
    }
}
