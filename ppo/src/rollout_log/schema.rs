//! The tables, as numbered steps.
//!
//! `PRAGMA user_version` holds the number of the last step that ran. A step is never edited once released; a change is a new
//! step at the end. Each runs in one transaction with its number, so a crash leaves the file before or after it, not between.

use rusqlite::{Connection, TransactionBehavior};

use super::error::LogError;

/// Steps in order; entry i brings a file from number i to i + 1.
pub(super) const STEPS: [&str; 1] = [
    // 1: rollouts, feedback, versions.
    "CREATE TABLE rollouts (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        request TEXT NOT NULL,
        choice INTEGER NOT NULL,
        version INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('generated','scored','claimed','trained','expired','dropped')),
        reason TEXT,
        user TEXT,
        finish TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        prompt BLOB NOT NULL,
        response BLOB NOT NULL,
        log_probs BLOB NOT NULL,
        behavior BLOB NOT NULL,
        log_kept_mass BLOB,
        sampling BLOB NOT NULL,
        score REAL,
        score_std REAL,
        reward_version TEXT,
        trained_version INTEGER,
        UNIQUE (request, choice),
        CHECK ((reason IS NOT NULL) = (state IN ('expired','dropped'))),
        CHECK ((trained_version IS NOT NULL) = (state = 'trained'))
     ) STRICT;
     CREATE INDEX rollouts_by_state ON rollouts (state, seq);
     CREATE INDEX rollouts_by_version ON rollouts (version, state, reason);
     CREATE TABLE feedback (
        seq INTEGER NOT NULL REFERENCES rollouts (seq),
        user TEXT NOT NULL,
        score REAL,
        label TEXT CHECK (label IN ('up','down')),
        edit TEXT,
        comment TEXT,
        created_ms INTEGER NOT NULL,
        applied INTEGER NOT NULL,
        PRIMARY KEY (seq, user)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE versions (
        version INTEGER PRIMARY KEY,
        parent INTEGER REFERENCES versions (version),
        state TEXT NOT NULL CHECK (state IN ('candidate','live','draining','retained','rejected','retired')),
        digest TEXT NOT NULL,
        path TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        n_rollouts INTEGER NOT NULL,
        reason TEXT
     ) STRICT;
     CREATE UNIQUE INDEX one_live_version ON versions (state) WHERE state = 'live';
     CREATE TABLE version_numbers (
        version INTEGER NOT NULL REFERENCES versions (version),
        name TEXT NOT NULL,
        value REAL NOT NULL,
        PRIMARY KEY (version, name)
     ) STRICT, WITHOUT ROWID;",
];

/// Number of the schema that this build writes.
pub(super) const CURRENT: u32 = STEPS.len() as u32;

/// Number of the schema in the file; 0 for a new file.
pub(super) fn number(connection: &Connection) -> Result<u32, LogError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Runs the steps that the file has not seen. A file from a newer honed is refused untouched.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), LogError> {
    migrate_through(connection, &STEPS)
}

pub(super) fn migrate_through(connection: &mut Connection, steps: &[&str]) -> Result<(), LogError> {
    let found = number(connection)?;
    let supported = steps.len() as u32;
    if found > supported {
        return Err(LogError::SchemaTooNew { found, supported });
    }
    for (at, step) in steps.iter().enumerate().skip(found as usize) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", at as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
