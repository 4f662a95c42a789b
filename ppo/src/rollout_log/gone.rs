//! Why rollouts had not trained that have left the log: their rows cannot say it any more, so they are counted here, in the
//! transaction that removes them.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::{RolloutLog, error::LogError, state::DropReason};

impl RolloutLog {
    /// Counts an exchange that its client kept out of the log: by this process alone, for there is no row.
    pub fn count_unstored(&self) {
        self.shared.counters.dropped.add(DropReason::NotStored, 1);
    }
}

/// Counts rows that go.
pub(super) fn count(connection: &Connection, reason: DropReason, n: u64) -> Result<(), LogError> {
    count_word(connection, reason.as_str(), n)
}

/// The same by the word that their own column has.
pub(super) fn count_word(connection: &Connection, reason: &str, n: u64) -> Result<(), LogError> {
    if n > 0 {
        connection
            .prepare_cached(
                "INSERT INTO gone (reason, n) VALUES (?1, ?2) ON CONFLICT (reason) DO UPDATE SET n = n + excluded.n",
            )?
            .execute(params![reason, n as i64])?;
    }
    Ok(())
}

/// All counts.
pub(super) fn counts(connection: &Connection) -> Result<BTreeMap<DropReason, u64>, LogError> {
    let mut statement = connection.prepare_cached("SELECT reason, n FROM gone")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let mut counts = BTreeMap::new();
    for row in rows {
        let (word, n) = row?;
        counts.extend(DropReason::parse(&word).map(|reason| (reason, n as u64)));
    }
    Ok(counts)
}
