//! Reading: pages, exports, counts. A reader has its own connection, so in WAL mode it never waits for the writer and the
//! writer never waits for it. It also opens without the folder's lock: `honed rollouts stats` works beside a running daemon.

mod export;
mod hearing;
mod making;
mod named;
mod service;

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path};

pub use export::Export;
pub(crate) use hearing::USER_PART;
pub use making::{MadeVersion, Making, UsedByUpdate};
#[cfg(test)]
pub(super) use named::NEWEST_NAMED;
use policy::{PolicyVersion, RolloutId};
use rusqlite::{Connection, OptionalExtension, params};
pub use service::Sample;

use super::{
    audit::{self, AuditRow},
    database::open_for_reading,
    error::LogError,
    feedback, gone,
    imports::{self, ImportRow},
    record::{self, LoggedRollout, Seq},
    redaction, schema,
    state::{DropReason, RolloutState},
    update_row::{UpdateRow, UsedRollout},
    updates,
    version_row::VersionRow,
    versions,
};

/// Which rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageQuery {
    /// Only rows after this position.
    pub after: Option<Seq>,
    /// Rows at most.
    pub limit: usize,
    /// Only this version's.
    pub version: Option<PolicyVersion>,
    /// Only rows in this state.
    pub state: Option<RolloutState>,
}

/// Counts over the whole log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogStats {
    /// Rows.
    pub n_rollouts: u64,
    /// Rows by state; every state has an entry.
    pub by_state: BTreeMap<RolloutState, u64>,
    /// Rows by the version that drew them.
    pub by_version: BTreeMap<PolicyVersion, u64>,
    /// Rows that do not train, by reason (expired ones under `stale`), and those that had not trained when they left the log.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Words of users.
    pub n_feedback: u64,
}

/// A connection that only reads.
#[derive(Debug)]
pub struct LogReader {
    connection: Connection,
    /// Number of the file's schema; an old one lacks tables.
    schema: u32,
}

impl LogReader {
    /// Opens the log of a data directory, also while a daemon writes to it, and also where nobody can write.
    pub fn open(data_dir: &Path) -> Result<LogReader, LogError> {
        if !super::has_log(data_dir) {
            return Err(LogError::Absent { dir: data_dir.to_path_buf() });
        }
        let connection = open_for_reading(data_dir)?;
        let found = schema::number(&connection)?;
        if found > schema::CURRENT {
            return Err(LogError::SchemaTooNew { found, supported: schema::CURRENT });
        }
        Ok(LogReader { connection, schema: found })
    }

    fn has(&self, first_schema: u32) -> bool {
        self.schema >= first_schema
    }

    /// Rows in log order, with their feedback.
    pub fn page(&self, query: &PageQuery) -> Result<Vec<LoggedRollout>, LogError> {
        let sql = format!(
            "SELECT {} FROM rollouts WHERE seq > ?1 AND (?2 IS NULL OR version = ?2) AND (?3 IS NULL OR state = ?3)
             ORDER BY seq LIMIT ?4",
            record::COLUMNS
        );
        self.rows(
            &sql,
            params![
                query.after.map_or(0, |seq| seq.0),
                query.version.map(|version| version.0 as i64),
                query.state.map(RolloutState::as_str),
                query.limit as i64,
            ],
        )
    }

    /// The oldest rows that wait for a score: those with feedback, and those logged before `waited_since_ms` (milliseconds
    /// since the Unix epoch; `u64::MAX` takes all).
    pub fn unscored(
        &self,
        after: Option<Seq>,
        limit: usize,
        waited_since_ms: u64,
    ) -> Result<Vec<LoggedRollout>, LogError> {
        self.unscored_but(after, limit, waited_since_ms.saturating_add(1)..=u64::MAX)
    }

    /// As [`LogReader::unscored`], naming the rows that are left out unless somebody spoke about them: those logged within
    /// `young`, milliseconds since the Unix epoch. Its end keeps rows of a clock that was set back since from waiting for ever.
    pub fn unscored_but(
        &self,
        after: Option<Seq>,
        limit: usize,
        young: RangeInclusive<u64>,
    ) -> Result<Vec<LoggedRollout>, LogError> {
        let sql = format!(
            "SELECT {} FROM rollouts WHERE state = 'generated' AND seq > ?1
                AND (created_ms NOT BETWEEN ?2 AND ?3 OR seq IN (SELECT seq FROM feedback WHERE score IS NOT NULL OR label IS NOT NULL))
             ORDER BY seq LIMIT ?4",
            record::COLUMNS
        );
        let [start, end] = [*young.start(), *young.end()].map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        // Of nothing is young; `BETWEEN` would still hold the last millisecond that there is.
        let end = if young.is_empty() || *young.start() == u64::MAX { i64::MIN } else { end };
        self.rows(&sql, params![after.map_or(0, |seq| seq.0), start, end, limit as i64])
    }

    /// One row by its id.
    pub fn rollout(&self, id: &RolloutId) -> Result<Option<LoggedRollout>, LogError> {
        let sql = format!("SELECT {} FROM rollouts WHERE request = ?1 AND choice = ?2", record::COLUMNS);
        Ok(self.rows(&sql, params![id.request, id.index])?.pop())
    }

    /// A few rows of one version that may be replayed: their tokens were drawn, and not from a truncated distribution.
    pub fn replayable(&self, version: PolicyVersion, limit: usize) -> Result<Vec<LoggedRollout>, LogError> {
        self.rows(&LogReader::replayable_sql(), params![version.0 as i64, limit as i64])
    }

    pub(super) fn replayable_sql() -> String {
        // The plus keeps SQLite from the index of states, whose rows it would have to sort.
        let states = "+state IN ('generated', 'scored', 'claimed', 'trained')";
        let columns = record::COLUMNS;
        format!("SELECT {columns} FROM rollouts WHERE version = ?1 AND {states} ORDER BY seq DESC LIMIT ?2")
    }

    fn rows(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<LoggedRollout>, LogError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query(params)?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let mut logged = record::read_row(row)?;
            logged.feedback = feedback::of(&self.connection, logged.seq, &logged.rollout.id)?;
            if logged.reason == Some(DropReason::Pii) {
                logged.redacted = redaction::of(&self.connection, logged.seq)?;
            }
            rows.push(logged);
        }
        Ok(rows)
    }

    /// Counts over the whole log, from an index alone, and of what has left it.
    pub fn stats(&self) -> Result<LogStats, LogError> {
        let mut stats = LogStats { by_state: RolloutState::ALL.map(|state| (state, 0)).into(), ..LogStats::default() };
        let mut statement = self
            .connection
            .prepare_cached("SELECT version, state, reason, COUNT(*) FROM rollouts GROUP BY version, state, reason")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let n: u64 = row.get::<_, i64>(3)? as u64;
            stats.n_rollouts += n;
            *stats.by_version.entry(PolicyVersion(row.get::<_, i64>(0)? as u64)).or_default() += n;
            if let Some(state) = RolloutState::parse(&row.get::<_, String>(1)?) {
                *stats.by_state.entry(state).or_default() += n;
            }
            if let Some(reason) = row.get::<_, Option<String>>(2)?.and_then(|word| DropReason::parse(&word)) {
                *stats.dropped.entry(reason).or_default() += n;
            }
        }
        if self.has(schema::WITH_GONE) {
            for (reason, n) in gone::counts(&self.connection)? {
                *stats.dropped.entry(reason).or_default() += n;
            }
        }
        stats.n_feedback =
            self.connection.query_row("SELECT COUNT(*) FROM feedback", [], |row| row.get::<_, i64>(0))? as u64;
        Ok(stats)
    }

    /// Rows that could be claimed or scored soon: `(scored, generated)`, capped at `limit` each.
    pub fn backlog(&self, limit: usize) -> Result<(u64, u64), LogError> {
        let count = |state: RolloutState| -> Result<u64, LogError> {
            let n: Option<i64> = self
                .connection
                .prepare_cached("SELECT COUNT(*) FROM (SELECT 1 FROM rollouts WHERE state = ?1 LIMIT ?2)")?
                .query_row(params![state.as_str(), limit as i64], |row| row.get(0))
                .optional()?;
            Ok(n.unwrap_or(0) as u64)
        };
        // In this order: what is judged in between is in both numbers, and not in neither.
        let n_generated = count(RolloutState::Generated)?;
        Ok((count(RolloutState::Scored)?, n_generated))
    }

    /// One update; `None` also for a log that a honed without records of updates wrote.
    pub fn update(&self, number: u64) -> Result<Option<UpdateRow>, LogError> {
        if self.has(schema::WITH_UPDATES) { updates::one(&self.connection, number) } else { Ok(None) }
    }

    /// The update that made a version, also when the gate refused it.
    pub fn update_of(&self, version: PolicyVersion) -> Result<Option<UpdateRow>, LogError> {
        if self.has(schema::WITH_UPDATES) { updates::of_version(&self.connection, version) } else { Ok(None) }
    }

    /// The newest update that ended.
    pub fn newest_update(&self) -> Result<Option<UpdateRow>, LogError> {
        Ok(self.newest_updates(1)?.pop())
    }

    /// The newest updates that ended, newest first.
    pub fn newest_updates(&self, limit: usize) -> Result<Vec<UpdateRow>, LogError> {
        if self.has(schema::WITH_UPDATES) { updates::newest_ended(&self.connection, limit) } else { Ok(Vec::new()) }
    }

    /// The update that runs, or that a process died in.
    pub fn open_update(&self) -> Result<Option<UpdateRow>, LogError> {
        if self.has(schema::WITH_UPDATES) { updates::open(&self.connection) } else { Ok(None) }
    }

    /// What an update used, in its order: names and scores, which the record keeps.
    pub fn used_rollouts(&self, number: u64) -> Result<Vec<UsedRollout>, LogError> {
        updates::used(&self.connection, number)
    }

    /// What an update used, in its order and with the scores of its record, as far as the log still has it.
    pub fn rollouts_of_update(&self, number: u64) -> Result<Vec<LoggedRollout>, LogError> {
        updates::rollouts(&self.connection, number, "")
    }

    /// Why rollouts of an update do not train, and how many for each reason, as far as the log still has them.
    pub fn drops_of_update(&self, number: u64) -> Result<BTreeMap<DropReason, usize>, LogError> {
        updates::drops(&self.connection, number)
    }

    /// What became of files from outside, oldest first.
    pub fn imports(&self) -> Result<Vec<ImportRow>, LogError> {
        if self.has(schema::WITH_IMPORTS) { imports::all(&self.connection) } else { Ok(Vec::new()) }
    }

    /// Versions that a file with these bytes became, whatever form they have.
    pub fn versions_of_import(&self, digest: &str) -> Result<Vec<PolicyVersion>, LogError> {
        if self.has(schema::WITH_IMPORTS) { imports::versions_of(&self.connection, digest) } else { Ok(Vec::new()) }
    }

    /// Digest of the file that was last brought under this name; `None` also where it could not be read.
    pub fn digest_last_imported(&self, path: &str) -> Result<Option<String>, LogError> {
        if self.has(schema::WITH_IMPORTS) { imports::last_digest_of(&self.connection, path) } else { Ok(None) }
    }

    /// Who did what: at most `limit` rows after a number, oldest first.
    pub fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>, LogError> {
        if self.has(schema::WITH_AUDIT) { audit::page(&self.connection, after, limit) } else { Ok(Vec::new()) }
    }

    /// All versions, oldest first.
    pub fn versions(&self) -> Result<Vec<VersionRow>, LogError> {
        versions::all(&self.connection)
    }

    /// One version.
    pub fn version(&self, version: PolicyVersion) -> Result<Option<VersionRow>, LogError> {
        versions::one(&self.connection, version)
    }

    /// The live version.
    pub fn live_version(&self) -> Result<Option<VersionRow>, LogError> {
        versions::live_row(&self.connection)
    }

    /// The largest number that a version ever had.
    pub fn newest_version(&self) -> Result<Option<PolicyVersion>, LogError> {
        versions::newest(&self.connection)
    }
}
