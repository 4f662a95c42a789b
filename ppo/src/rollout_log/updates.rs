//! The rows of updates: one before an update begins, completed when it ends, gone when it came to nothing.

use std::collections::BTreeMap;

use policy::{PolicyVersion, checkpoint::Digest};
use rusqlite::{Connection, Row, params};

use super::{
    blob,
    error::LogError,
    record::{self, LoggedRollout, ScoreRecord, Seq},
    state::DropReason,
    update_row::{Start, StreakRow, UpdateChange, UpdateEnd, UpdateRow, UpdateStart, UsedRollout},
};
use crate::{clock::now_ms, stats::UpdateOutcome};

/// Writes the row of an update that is about to begin with these rollouts. One that was left open, because its end could
/// not be written, is replaced.
pub(super) fn begin(
    connection: &Connection,
    start: &UpdateStart,
    lineage: &[PolicyVersion],
    rollouts: &[LoggedRollout],
) -> Result<(), LogError> {
    abandon(connection, start.number)?;
    let config_digest = Digest::of(start.config.as_bytes()).to_string();
    connection.execute(
        "INSERT INTO update_configs (digest, assignments) VALUES (?1, ?2) ON CONFLICT (digest) DO NOTHING",
        params![config_digest, start.config],
    )?;
    connection.execute(
        "INSERT INTO updates (number, outcome, start, parent, parent_digest, lineage, state_before, config, arithmetic,
            n_threads, pretraining, n_attempts, claimed_ms)
         VALUES (?1, 'open', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 1, ?11)",
        params![
            start.number as i64,
            start.start.as_str(),
            start.parent.0 as i64,
            start.parent_digest,
            blob::versions(lineage),
            start.state_before,
            config_digest,
            start.arithmetic,
            start.n_threads as i64,
            start.pretraining,
            now_ms() as i64,
        ],
    )?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO update_rollouts (number, position, seq, score, score_std, reward_version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (position, rollout) in rollouts.iter().enumerate() {
        let unscored = || LogError::Corrupt { seq: rollout.seq.0, what: "claimed without a score".to_string() };
        let score = rollout.score.as_ref().ok_or_else(unscored)?;
        let number = start.number as i64;
        statement.execute(params![
            number,
            position as i64,
            rollout.seq.0,
            score.score,
            score.std,
            score.reward_version
        ])?;
    }
    Ok(())
}

/// What becomes of a row when its claim ends.
pub(super) fn change(connection: &Connection, change: &UpdateChange) -> Result<(), LogError> {
    match change {
        UpdateChange::End(end) => complete(connection, end),
        UpdateChange::Abandon(number) => abandon(connection, *number),
    }
}

fn complete(connection: &Connection, end: &UpdateEnd) -> Result<(), LogError> {
    let n_moved = connection.execute(
        "UPDATE updates SET outcome = ?2, version = ?3, digest = ?4, state_after = ?5, ended_ms = ?6, streak_first = ?7,
            streak_n = ?8, went_back = ?9
         WHERE number = ?1 AND outcome = 'open'",
        params![
            end.number as i64,
            end.outcome.as_str(),
            end.version.map(|version| version.0 as i64),
            end.digest,
            end.state_after,
            now_ms() as i64,
            end.streak.map(|streak| streak.first as i64),
            end.streak.map(|streak| streak.n),
            end.streak.map(|streak| streak.went_back),
        ],
    )?;
    if n_moved != 1 {
        return Err(LogError::UpdateState { number: end.number, expected: "open" });
    }
    let mut statement =
        connection.prepare_cached("INSERT INTO update_numbers (number, name, value) VALUES (?1, ?2, ?3)")?;
    // NaN would be stored as NULL, which the column refuses: a number that does not exist is not a row.
    for (name, value) in end.numbers.iter().filter(|(_, value)| !value.is_nan()) {
        statement.execute(params![end.number as i64, name, value])?;
    }
    Ok(())
}

fn abandon(connection: &Connection, number: u64) -> Result<(), LogError> {
    let n_open = connection.execute("DELETE FROM updates WHERE number = ?1 AND outcome = 'open'", [number as i64])?;
    if n_open == 1 {
        connection.execute("DELETE FROM update_rollouts WHERE number = ?1", [number as i64])?;
    }
    Ok(())
}

/// Counts one more attempt at an open update and returns what it claimed, in its order and with the scores of its record.
/// Rows that are no longer claimed are missing from the answer.
pub(super) fn repeat(connection: &Connection, number: u64) -> Result<Vec<LoggedRollout>, LogError> {
    let n_moved = connection.execute(
        "UPDATE updates SET n_attempts = n_attempts + 1 WHERE number = ?1 AND outcome = 'open'",
        [number as i64],
    )?;
    if n_moved != 1 {
        return Err(LogError::UpdateState { number, expected: "open" });
    }
    let rows = rollouts(connection, number, "AND state = 'claimed'")?;
    Ok(rows)
}

/// What an update used, in its order, as far as the log still has it.
pub(super) fn rollouts(connection: &Connection, number: u64, condition: &str) -> Result<Vec<LoggedRollout>, LogError> {
    let sql = format!("SELECT {} FROM rollouts WHERE seq = ?1 {condition}", record::COLUMNS);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = Vec::new();
    for used in used(connection, number)? {
        let mut found = statement.query([used.seq.0])?;
        if let Some(row) = found.next()? {
            rows.push(LoggedRollout { score: Some(used.score), ..record::read_row(row)? });
        }
    }
    Ok(rows)
}

/// What an update used, in its order.
pub(super) fn used(connection: &Connection, number: u64) -> Result<Vec<UsedRollout>, LogError> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, score, score_std, reward_version FROM update_rollouts WHERE number = ?1 ORDER BY position",
    )?;
    let rows = statement.query_map([number as i64], |row| {
        let score = ScoreRecord { score: row.get(1)?, std: row.get(2)?, reward_version: row.get(3)? };
        Ok(UsedRollout { seq: Seq(row.get(0)?), score })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One row.
pub(super) fn one(connection: &Connection, number: u64) -> Result<Option<UpdateRow>, LogError> {
    Ok(select(connection, "number = ?1", params![number as i64])?.pop())
}

/// The update that made this version, also when the gate refused it.
pub(super) fn of_version(connection: &Connection, version: PolicyVersion) -> Result<Option<UpdateRow>, LogError> {
    Ok(select(connection, "version = ?1 ORDER BY number DESC LIMIT 1", params![version.0 as i64])?.pop())
}

/// The update that a process died in, or that runs.
pub(super) fn open(connection: &Connection) -> Result<Option<UpdateRow>, LogError> {
    Ok(select(connection, "outcome = 'open' ORDER BY number DESC LIMIT 1", [])?.pop())
}

/// The newest updates that ended, newest first.
pub(super) fn newest_ended(connection: &Connection, limit: usize) -> Result<Vec<UpdateRow>, LogError> {
    select(connection, "outcome <> 'open' ORDER BY number DESC LIMIT ?1", params![limit as i64])
}

/// Why rollouts of an update do not train, and how many for each reason, as far as the log still has them.
pub(super) fn drops(connection: &Connection, number: u64) -> Result<BTreeMap<DropReason, usize>, LogError> {
    let mut statement = connection.prepare_cached(
        "SELECT reason, COUNT(*) FROM update_rollouts JOIN rollouts USING (seq)
         WHERE number = ?1 AND reason IS NOT NULL GROUP BY reason",
    )?;
    let rows = statement.query_map([number as i64], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let mut drops = BTreeMap::new();
    for row in rows {
        let (word, n) = row?;
        drops.extend(DropReason::parse(&word).map(|reason| (reason, n as usize)));
    }
    Ok(drops)
}

fn select(connection: &Connection, which: &str, params: impl rusqlite::Params) -> Result<Vec<UpdateRow>, LogError> {
    let sql = format!(
        "SELECT number, outcome, start, parent, parent_digest, lineage, state_before, assignments, arithmetic, n_threads,
            n_attempts, claimed_ms, version, updates.digest, state_after, pretraining, streak_first, streak_n, went_back,
            ended_ms
         FROM updates JOIN update_configs ON update_configs.digest = updates.config WHERE {which}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(read_row(connection, row)?);
    }
    Ok(rows)
}

fn read_row(connection: &Connection, row: &Row<'_>) -> Result<UpdateRow, LogError> {
    let number: i64 = row.get(0)?;
    let corrupt = |what: String| LogError::Corrupt { seq: number, what: format!("update: {what}") };
    let start: String = row.get(2)?;
    let start = UpdateStart {
        number: number as u64,
        start: Start::parse(&start).ok_or_else(|| corrupt(format!("start {start:?} is unknown")))?,
        parent: PolicyVersion(row.get::<_, i64>(3)? as u64),
        parent_digest: row.get(4)?,
        state_before: row.get(6)?,
        config: row.get(7)?,
        arithmetic: row.get(8)?,
        n_threads: row.get::<_, i64>(9)? as usize,
        pretraining: row.get(15)?,
    };
    let lineage = row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?;
    let outcome: String = row.get(1)?;
    let end = if outcome == "open" {
        None
    } else {
        let unknown = || corrupt(format!("outcome {outcome:?} is unknown"));
        Some(UpdateEnd {
            number: number as u64,
            outcome: UpdateOutcome::parse(&outcome).ok_or_else(unknown)?,
            version: row.get::<_, Option<i64>>(12)?.map(|version| PolicyVersion(version as u64)),
            digest: row.get(13)?,
            state_after: row.get(14)?,
            numbers: numbers(connection, number)?,
            streak: read_streak(row)?,
        })
    };
    Ok(UpdateRow {
        start,
        lineage: blob::parse_versions(lineage).map_err(corrupt)?,
        n_attempts: row.get(10)?,
        claimed_ms: row.get::<_, i64>(11)? as u64,
        ended_ms: row.get::<_, Option<i64>>(19)?.map(|ms| ms as u64),
        end,
    })
}

fn read_streak(row: &Row<'_>) -> Result<Option<StreakRow>, LogError> {
    let Some(first) = row.get::<_, Option<i64>>(16)? else {
        return Ok(None);
    };
    Ok(Some(StreakRow { first: first as u64, n: row.get(17)?, went_back: row.get(18)? }))
}

fn numbers(connection: &Connection, number: i64) -> Result<BTreeMap<String, f64>, LogError> {
    let mut statement = connection.prepare_cached("SELECT name, value FROM update_numbers WHERE number = ?1")?;
    let rows = statement.query_map([number], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
