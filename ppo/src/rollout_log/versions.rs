//! The rows of the version registry. They live in the log's database, because "these rollouts are trained" and "this version
//! is live" must become true in one transaction; [`crate::registry`] owns the files and the rules.

use std::{collections::BTreeMap, path::PathBuf};

use policy::PolicyVersion;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    error::LogError,
    transition,
    version_row::{VersionChange, VersionRow, VersionState},
};

/// Applies one change.
pub(super) fn apply(connection: &Connection, change: &VersionChange) -> Result<(), LogError> {
    match change {
        VersionChange::Register(row) => insert(connection, row),
        VersionChange::Withdraw => withdraw(connection),
        VersionChange::Publish { version, settlement, report } => {
            put_numbers(connection, *version, &report.numbers)?;
            drain_live(connection, None)?;
            go_live(connection, *version, &[VersionState::Candidate], report.remark.as_deref())?;
            transition::settle(connection, settlement).map(drop)
        }
        VersionChange::Reject { version, reason, settlement, numbers } => {
            put_numbers(connection, *version, numbers)?;
            step(connection, *version, VersionState::Candidate, VersionState::Rejected, Some(reason))?;
            transition::settle(connection, settlement).map(drop)
        }
        VersionChange::Keep { version, report } => {
            put_numbers(connection, *version, &report.numbers)?;
            step(connection, *version, VersionState::Candidate, VersionState::Retained, report.remark.as_deref())
        }
        VersionChange::Activate { version, expected_live, why } => {
            let found = live(connection)?;
            if let (Some(expected), Some(found)) = (*expected_live, found)
                && expected != found
            {
                return Err(LogError::LiveChanged { expected, found });
            }
            if found == Some(*version) {
                return Ok(());
            }
            drain_live(connection, why.as_deref())?;
            go_live(connection, *version, &[VersionState::Retained, VersionState::Draining], None)
        }
        VersionChange::Replace { version, damaged, .. } => {
            for (damaged, what) in damaged {
                let found = state(connection, *damaged)?;
                let usable = found.filter(|found| matches!(found, VersionState::Live | VersionState::Retained));
                let from = usable.ok_or_else(|| wrong_state(*damaged, VersionState::Live, found))?;
                step(connection, *damaged, from, VersionState::Retired, Some(what))?;
            }
            go_live(connection, *version, &[VersionState::Retained], None)
        }
        VersionChange::Move { version, from, to, reason } => step(connection, *version, *from, *to, reason.as_deref()),
    }
}

fn insert(connection: &Connection, row: &VersionRow) -> Result<(), LogError> {
    connection.execute(
        "INSERT INTO versions (version, parent, state, digest, path, created_ms, n_rollouts, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            row.version.0 as i64,
            row.parent.map(|parent| parent.0 as i64),
            row.state.as_str(),
            row.digest,
            row.path.to_string_lossy(),
            row.created_ms as i64,
            row.n_rollouts as i64,
            row.reason,
        ],
    )?;
    put_numbers(connection, row.version, &row.numbers)
}

/// A folder in which anything has happened stays version 0's.
fn withdraw(connection: &Connection) -> Result<(), LogError> {
    connection.execute(
        "DELETE FROM versions WHERE version = ?1
            AND NOT EXISTS (SELECT 1 FROM versions WHERE version <> ?1)
            AND NOT EXISTS (SELECT 1 FROM services)
            AND NOT EXISTS (SELECT 1 FROM rollouts)
            AND NOT EXISTS (SELECT 1 FROM updates)",
        [PolicyVersion::SFT.0 as i64],
    )?;
    Ok(())
}

fn put_numbers(
    connection: &Connection,
    version: PolicyVersion,
    numbers: &BTreeMap<String, f64>,
) -> Result<(), LogError> {
    let mut statement = connection
        .prepare_cached("INSERT OR REPLACE INTO version_numbers (version, name, value) VALUES (?1, ?2, ?3)")?;
    // NaN would be stored as NULL, which the column refuses: a number that does not exist is not a row.
    for (name, value) in numbers.iter().filter(|(_, value)| !value.is_nan()) {
        statement.execute(params![version.0 as i64, name, value])?;
    }
    Ok(())
}

/// Before another goes live: the unique index allows one live row at a time.
fn drain_live(connection: &Connection, why: Option<&str>) -> Result<(), LogError> {
    match live(connection)? {
        Some(version) => step(connection, version, VersionState::Live, VersionState::Draining, why),
        None => Ok(()),
    }
}

fn go_live(
    connection: &Connection,
    version: PolicyVersion,
    from: &[VersionState],
    remark: Option<&str>,
) -> Result<(), LogError> {
    let found = state(connection, version)?;
    match found.filter(|found| from.contains(found)) {
        Some(from) => {
            // Once: who has been live and was rolled back does not come back by itself.
            let gone = params![version.0 as i64, VersionRow::AWAITS_PROMOTION];
            connection.execute("DELETE FROM version_numbers WHERE version = ?1 AND name = ?2", gone)?;
            step(connection, version, from, VersionState::Live, remark)?;
        }
        None => return Err(wrong_state(version, from[0], found)),
    }
    begin_service(connection, version)
}

/// What this version answers from here on, it answers as the live one.
fn begin_service(connection: &Connection, version: PolicyVersion) -> Result<(), LogError> {
    connection.execute(
        "INSERT INTO services (version, after) SELECT ?1, coalesce(MAX(seq), 0) FROM rollouts",
        [version.0 as i64],
    )?;
    Ok(())
}

fn step(
    connection: &Connection,
    version: PolicyVersion,
    from: VersionState,
    to: VersionState,
    why: Option<&str>,
) -> Result<(), LogError> {
    let before: Option<String> = connection
        .query_row("SELECT reason FROM versions WHERE version = ?1", [version.0 as i64], |row| row.get(0))
        .optional()?
        .flatten();
    let reason = VersionRow::reason_after(before.as_deref(), why, to);
    let n_moved = connection.execute(
        "UPDATE versions SET state = ?3, reason = ?4 WHERE version = ?1 AND state = ?2",
        params![version.0 as i64, from.as_str(), to.as_str(), reason],
    )?;
    if n_moved == 1 { Ok(()) } else { Err(wrong_state(version, from, state(connection, version)?)) }
}

fn wrong_state(version: PolicyVersion, expected: VersionState, found: Option<VersionState>) -> LogError {
    let found = found.map_or("absent", VersionState::as_str).to_string();
    LogError::VersionState { version, expected: expected.as_str(), found }
}

fn state(connection: &Connection, version: PolicyVersion) -> Result<Option<VersionState>, LogError> {
    let word: Option<String> = connection
        .query_row("SELECT state FROM versions WHERE version = ?1", [version.0 as i64], |row| row.get(0))
        .optional()?;
    Ok(word.as_deref().and_then(VersionState::parse))
}

fn live(connection: &Connection) -> Result<Option<PolicyVersion>, LogError> {
    let version: Option<i64> =
        connection.query_row("SELECT version FROM versions WHERE state = 'live'", [], |row| row.get(0)).optional()?;
    Ok(version.map(|version| PolicyVersion(version as u64)))
}

const COLUMNS: &str = "version, parent, state, digest, path, created_ms, n_rollouts, reason";

/// All rows, oldest first.
pub(super) fn all(connection: &Connection) -> Result<Vec<VersionRow>, LogError> {
    select(connection, "ORDER BY version", [])
}

/// One row.
pub(super) fn one(connection: &Connection, version: PolicyVersion) -> Result<Option<VersionRow>, LogError> {
    Ok(select(connection, "WHERE version = ?1", [version.0 as i64])?.pop())
}

/// The live row.
pub(super) fn live_row(connection: &Connection) -> Result<Option<VersionRow>, LogError> {
    Ok(select(connection, "WHERE state = 'live'", [])?.pop())
}

/// The largest number that was ever given.
pub(super) fn newest(connection: &Connection) -> Result<Option<PolicyVersion>, LogError> {
    let newest: Option<i64> = connection.query_row("SELECT MAX(version) FROM versions", [], |row| row.get(0))?;
    Ok(newest.map(|version| PolicyVersion(version as u64)))
}

fn select(connection: &Connection, which: &str, params: impl rusqlite::Params) -> Result<Vec<VersionRow>, LogError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM versions {which}"))?;
    let mut found = statement.query(params)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(read_row(connection, row)?);
    }
    Ok(rows)
}

fn read_row(connection: &Connection, row: &Row<'_>) -> Result<VersionRow, LogError> {
    let version: i64 = row.get(0)?;
    let word: String = row.get(2)?;
    Ok(VersionRow {
        version: PolicyVersion(version as u64),
        parent: row.get::<_, Option<i64>>(1)?.map(|parent| PolicyVersion(parent as u64)),
        state: VersionState::parse(&word)
            .ok_or(LogError::Corrupt { seq: version, what: format!("version state {word:?} is unknown") })?,
        digest: row.get(3)?,
        path: PathBuf::from(row.get::<_, String>(4)?),
        created_ms: row.get::<_, i64>(5)? as u64,
        n_rollouts: row.get::<_, i64>(6)? as u64,
        reason: row.get(7)?,
        numbers: numbers(connection, version)?,
    })
}

fn numbers(connection: &Connection, version: i64) -> Result<BTreeMap<String, f64>, LogError> {
    let mut statement = connection.prepare_cached("SELECT name, value FROM version_numbers WHERE version = ?1")?;
    let rows = statement.query_map([version], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
