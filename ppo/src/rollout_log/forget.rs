//! A user is forgotten: every exchange of theirs leaves the log, and everything that they said about anybody's.
//!
//! What cannot be taken back is written down instead: a version that learnt from some of these exchanges keeps its weights, and
//! its row counts how many of the rollouts that trained it are gone (`provenance/forgotten`). The record of an update keeps the
//! positions and scores of what it used, and no text. What they said about others' exchanges made scores of these: where no update
//! has claimed them yet, they are judged again without it.
//!
//! Rows that an update holds right now stay until it has ended: its record must name what it learnt from. They are counted, so
//! that whoever asked knows to ask again.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use policy::PolicyVersion;
use rusqlite::{Connection, params};

use super::{
    RolloutLog,
    audit::{self, Act, Action, Who},
    error::LogError,
    gone, judges,
    state::DropReason,
    writer::Command,
};

/// The number of a version's row that counts them.
pub const FORGOTTEN: &str = "provenance/forgotten";

/// What is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Exchanges of the user that were removed.
    pub n_rollouts: u64,
    /// Those among them that had not trained and now never will.
    pub n_untrained: u64,
    /// Exchanges of the user that an update holds; they are still there.
    pub n_claimed: u64,
    /// Words that were removed: the user's own, and others' about what is gone.
    pub n_feedback: u64,
    /// How many of the removed exchanges had trained which version.
    pub trained: BTreeMap<PolicyVersion, u64>,
}

impl RolloutLog {
    /// Removes every exchange of one user and everything that they said, but for what an update holds right now; the audit log
    /// says who asked for it.
    pub fn forget_user(&self, user: &str, who: &Who) -> Result<Forgotten, LogError> {
        let forgotten = self.call(|reply| Command::Forget(user.to_owned(), who.clone(), reply))?;
        if forgotten.n_rollouts > forgotten.n_untrained {
            self.shared.removals.0.fetch_add(1, Ordering::AcqRel);
        }
        Ok(forgotten)
    }

    /// How often rows were removed that updates may have used. What such an update left cannot be computed again, so whoever has
    /// it writes it down.
    pub(crate) fn n_removals(&self) -> u64 {
        self.shared.removals.0.load(Ordering::Acquire)
    }
}

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct Removals(AtomicU64);

/// Removes everything of one user but what is claimed, and says who asked for it. `is_heard`: scores are made of what people say.
pub(super) fn forget(connection: &Connection, user: &str, who: &Who, is_heard: bool) -> Result<Forgotten, LogError> {
    let count = |condition: &str| -> Result<u64, LogError> {
        let sql = format!("SELECT COUNT(*) FROM rollouts WHERE user = ?1 AND {condition}");
        Ok(connection.prepare_cached(&sql)?.query_row([user], |row| row.get::<_, i64>(0))? as u64)
    };
    let mut forgotten = Forgotten {
        n_untrained: count("state IN ('generated', 'scored')")?,
        n_claimed: count("state = 'claimed'")?,
        trained: trained(connection, user)?,
        ..Forgotten::default()
    };
    for (version, n) in &forgotten.trained {
        connection
            .prepare_cached(
                "INSERT INTO version_numbers (version, name, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (version, name) DO UPDATE SET value = value + excluded.value",
            )?
            .execute(params![version.0 as i64, FORGOTTEN, *n as f64])?;
    }
    if is_heard {
        judges::rejudge_without(connection, user)?;
    }
    for (reason, n) in reasons(connection, user)? {
        gone::count_word(connection, &reason, n)?;
    }
    let n_feedback = connection.execute(
        "DELETE FROM feedback WHERE user = ?1
            OR seq IN (SELECT seq FROM rollouts WHERE user = ?1 AND state <> 'claimed')",
        [user],
    )?;
    let n_rollouts = connection.execute("DELETE FROM rollouts WHERE user = ?1 AND state <> 'claimed'", [user])?;
    gone::count(connection, DropReason::Forgotten, forgotten.n_untrained)?;
    (forgotten.n_feedback, forgotten.n_rollouts) = (n_feedback as u64, n_rollouts as u64);
    let removed = format!("removed {n_rollouts} rollouts and {n_feedback} words of feedback");
    audit::insert(connection, &Act::new(who, Action::Forget, audit::user_subject(user)).done_with(removed))?;
    Ok(forgotten)
}

/// Why those of the user's exchanges had not trained whose rows say so.
fn reasons(connection: &Connection, user: &str) -> Result<Vec<(String, u64)>, LogError> {
    let mut statement = connection.prepare_cached(
        "SELECT reason, COUNT(*) FROM rollouts WHERE user = ?1 AND reason IS NOT NULL GROUP BY reason",
    )?;
    let rows = statement.query_map([user], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Versions whose rows exist and that the user's exchanges trained.
fn trained(connection: &Connection, user: &str) -> Result<BTreeMap<PolicyVersion, u64>, LogError> {
    let mut statement = connection.prepare_cached(
        "SELECT trained_version, COUNT(*) FROM rollouts
         WHERE user = ?1 AND state = 'trained' AND trained_version IN (SELECT version FROM versions)
         GROUP BY trained_version",
    )?;
    let rows = statement
        .query_map([user], |row| Ok((PolicyVersion(row.get::<_, i64>(0)? as u64), row.get::<_, i64>(1)? as u64)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
