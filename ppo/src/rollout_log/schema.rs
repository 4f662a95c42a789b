//! The tables, as numbered steps.
//!
//! `PRAGMA user_version` holds the number of the last step that ran. A step is never edited once released; a change is a new
//! step at the end. Each runs in one transaction with its number, so a crash leaves the file before or after it, not between.

use rusqlite::Connection;

use super::{
    error::LogError,
    transaction::{begin, commit},
};

/// Steps in order; entry i brings a file from number i to i + 1.
pub(super) const STEPS: [&str; 9] = [
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
    // 2: updates, recorded before they begin. What they used is named by position, not by reference: the record of an
    // update outlives its rollouts, and then says which of them are gone.
    "CREATE TABLE update_configs (
        digest TEXT PRIMARY KEY,
        assignments TEXT NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE updates (
        number INTEGER PRIMARY KEY,
        outcome TEXT NOT NULL CHECK (outcome IN ('open','promoted','rejected','no_step')),
        start TEXT NOT NULL CHECK (start IN ('continued','rebased','fresh')),
        parent INTEGER NOT NULL,
        parent_digest TEXT NOT NULL,
        lineage BLOB NOT NULL,
        state_before TEXT NOT NULL,
        config TEXT NOT NULL REFERENCES update_configs (digest),
        arithmetic TEXT NOT NULL,
        n_threads INTEGER NOT NULL,
        pretraining TEXT NOT NULL,
        n_attempts INTEGER NOT NULL,
        claimed_ms INTEGER NOT NULL,
        version INTEGER,
        digest TEXT,
        state_after TEXT,
        ended_ms INTEGER,
        streak_first INTEGER,
        streak_n INTEGER,
        went_back INTEGER,
        CHECK ((version IS NOT NULL) = (outcome IN ('promoted','rejected'))),
        CHECK ((digest IS NULL) = (version IS NULL)),
        CHECK ((state_after IS NULL) = (outcome = 'open'))
     ) STRICT;
     CREATE INDEX updates_by_outcome ON updates (outcome, number);
     CREATE TABLE update_rollouts (
        number INTEGER NOT NULL,
        position INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        score REAL NOT NULL,
        score_std REAL,
        reward_version TEXT NOT NULL,
        PRIMARY KEY (number, position)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE update_numbers (
        number INTEGER NOT NULL,
        name TEXT NOT NULL,
        value REAL NOT NULL,
        PRIMARY KEY (number, name)
     ) STRICT, WITHOUT ROWID;",
    // 3: files from outside.
    "CREATE TABLE imports (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        source TEXT NOT NULL CHECK (source IN ('api','folder')),
        path TEXT NOT NULL,
        outcome TEXT NOT NULL CHECK (outcome IN ('refused','rejected','retained','promoted')),
        digest TEXT,
        version INTEGER,
        reason TEXT
     ) STRICT;",
    // 4: who did what. Rows are added and nothing else.
    "CREATE TABLE audit (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        actor TEXT NOT NULL,
        remote TEXT,
        request TEXT,
        action TEXT NOT NULL,
        subject TEXT,
        outcome TEXT NOT NULL CHECK (outcome IN ('done','refused')),
        detail TEXT,
        CHECK (outcome = 'done' OR detail IS NOT NULL)
     ) STRICT;
     CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'rows of the audit log are never changed'); END;
     CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'rows of the audit log are never removed'); END;",
    // 5: texts of exchanges whose token ids are not kept. They go with their rows.
    "CREATE TABLE redactions (
        seq INTEGER PRIMARY KEY REFERENCES rollouts (seq) ON DELETE CASCADE,
        prompt TEXT NOT NULL,
        response TEXT NOT NULL
     ) STRICT;",
    // 6: where in the log versions began to answer as the live one; one that is activated again has another row.
    "CREATE TABLE services (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        version INTEGER NOT NULL REFERENCES versions (version),
        after INTEGER NOT NULL
     ) STRICT;
     CREATE INDEX services_by_version ON services (version, number);",
    // 7: ways to the rows of one version in their order, and to the oldest, past no other row. Payloads lie in the rows, so each
    // that is only passed costs a read.
    "CREATE INDEX rollouts_in_order ON rollouts (version, seq);
     CREATE INDEX scored_in_order ON rollouts (version, seq) WHERE score IS NOT NULL;
     CREATE INDEX rollouts_by_age ON rollouts (created_ms);",
    // 8: counts of rows that are gone, by the reason why they had not trained; and ways to what made a version.
    "CREATE TABLE gone (
        reason TEXT PRIMARY KEY,
        n INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX updates_by_version ON updates (version);
     CREATE INDEX judges_by_update ON update_rollouts (number, reward_version);",
    // 9: who judged the rollouts of an update is read from their own order.
    "DROP INDEX judges_by_update;",
];

/// Number of the schema that this build writes.
pub(super) const CURRENT: u32 = STEPS.len() as u32;

/// Number of the first schema with tables of updates.
pub(super) const WITH_UPDATES: u32 = 2;

/// Number of the first schema with a table of imports.
pub(super) const WITH_IMPORTS: u32 = 3;

/// Number of the first schema with an audit log.
pub(super) const WITH_AUDIT: u32 = 4;

/// Number of the first schema that says when versions went live.
pub(super) const WITH_SERVICES: u32 = 6;

/// Number of the first schema that counts what is gone.
pub(super) const WITH_GONE: u32 = 8;

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
        let transaction = begin(connection)?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", at as u32 + 1)?;
        commit(transaction, "schema.commit")?;
    }
    Ok(())
}
