//! Rows about files from outside: who brought what, and what became of it. The newest [`KEPT`] stay.

use policy::PolicyVersion;
use rusqlite::{Connection, OptionalExtension, params};

use super::{RolloutLog, error::LogError, writer::Command};

/// Rows that are kept: a broken file in a watched folder must not fill the log.
const KEPT: i64 = 10_000;

/// Who brought a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportSource {
    /// `POST /v1/policies`.
    Api,
    /// The watched folder.
    Folder,
}

impl ImportSource {
    /// The word in the column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ImportSource::Api => "api",
            ImportSource::Folder => "folder",
        }
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It did not become a version.
    Refused,
    /// It became a candidate, and the gate refused it.
    Rejected,
    /// It is kept, and may be activated.
    Retained,
    /// It is live.
    Promoted,
}

impl ImportOutcome {
    /// All outcomes.
    pub const ALL: [ImportOutcome; 4] =
        [ImportOutcome::Refused, ImportOutcome::Rejected, ImportOutcome::Retained, ImportOutcome::Promoted];

    /// The word in the column and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ImportOutcome::Refused => "refused",
            ImportOutcome::Rejected => "rejected",
            ImportOutcome::Retained => "retained",
            ImportOutcome::Promoted => "promoted",
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportRow {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who brought it.
    pub source: ImportSource,
    /// As it was named.
    pub path: String,
    /// What became of it.
    pub outcome: ImportOutcome,
    /// Of its bytes as they were brought, once they were read; a version that was converted from them has another one.
    pub digest: Option<String>,
    /// Its number, once it was a candidate; of weights that are there already, the number that they have.
    pub version: Option<PolicyVersion>,
    /// Why it is not what was asked for.
    pub reason: Option<String>,
}

impl RolloutLog {
    /// Notes what became of a file from outside.
    pub fn note_import(&self, row: ImportRow) -> Result<(), LogError> {
        self.call(|reply| Command::Import(Box::new(row), reply))
    }
}

pub(super) fn insert(connection: &Connection, row: &ImportRow) -> Result<(), LogError> {
    connection.execute(
        "INSERT INTO imports (at_ms, source, path, outcome, digest, version, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            row.at_ms as i64,
            row.source.as_str(),
            row.path,
            row.outcome.as_str(),
            row.digest,
            row.version.map(|version| version.0 as i64),
            row.reason,
        ],
    )?;
    connection.execute("DELETE FROM imports WHERE number <= (SELECT MAX(number) FROM imports) - ?1", [KEPT])?;
    Ok(())
}

/// Versions that a file of this digest became.
pub(super) fn versions_of(connection: &Connection, digest: &str) -> Result<Vec<PolicyVersion>, LogError> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT version FROM imports WHERE digest = ?1 AND version IS NOT NULL ORDER BY version",
    )?;
    let versions = statement.query_map([digest], |row| Ok(PolicyVersion(row.get::<_, i64>(0)? as u64)))?;
    Ok(versions.collect::<Result<_, _>>()?)
}

/// Digest of the file that was last brought under this name.
pub(super) fn last_digest_of(connection: &Connection, path: &str) -> Result<Option<String>, LogError> {
    let mut statement =
        connection.prepare_cached("SELECT digest FROM imports WHERE path = ?1 ORDER BY number DESC LIMIT 1")?;
    let last: Option<Option<String>> = statement.query_row([path], |row| row.get(0)).optional()?;
    Ok(last.flatten())
}

/// All rows, oldest first.
pub(super) fn all(connection: &Connection) -> Result<Vec<ImportRow>, LogError> {
    let mut statement = connection.prepare_cached(
        "SELECT at_ms, source, path, outcome, digest, version, reason, number FROM imports ORDER BY number",
    )?;
    let mut found = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let (source, outcome): (String, String) = (row.get(1)?, row.get(3)?);
        let number: i64 = row.get(7)?;
        let corrupt = |what: String| LogError::Corrupt { seq: number, what: format!("import: {what}") };
        let unknown = |word: &str| corrupt(format!("{word:?} is unknown"));
        rows.push(ImportRow {
            at_ms: row.get::<_, i64>(0)? as u64,
            source: [ImportSource::Api, ImportSource::Folder]
                .into_iter()
                .find(|s| s.as_str() == source)
                .ok_or_else(|| unknown(&source))?,
            path: row.get(2)?,
            outcome: ImportOutcome::ALL.into_iter().find(|o| o.as_str() == outcome).ok_or_else(|| unknown(&outcome))?,
            digest: row.get(4)?,
            version: row.get::<_, Option<i64>>(5)?.map(|version| PolicyVersion(version as u64)),
            reason: row.get(6)?,
        });
    }
    Ok(rows)
}
