//! Exchanges leave the log when they are old (`ppo.log.keep_days`), with what was said about them, whether they have trained or
//! not.
//!
//! What an update holds stays until it has ended, and what the newest updates used stays as long as a restart may have to compute
//! them again. Records of older updates stay, and say how many of their rollouts are gone; they cannot be replayed. The writer
//! removes a piece at a time, so that exchanges never wait for long. The file does not shrink: what is free in it is used again.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::{
    RolloutLog,
    error::LogError,
    gone,
    state::DropReason,
    transaction::{begin, commit},
    writer::{Command, Writer},
};
use crate::clock::now_ms;

/// Rows that one transaction removes at most.
const PIECE: usize = 500;
/// Pause between two pieces.
const BETWEEN_PIECES: Duration = Duration::from_millis(200);
/// How often it is looked for old rows.
const EVERY: Duration = Duration::from_secs(600);
/// Updates beyond those since the newest state whose rollouts stay: states that cannot be read, and rounds that are taken back.
const MORE_UPDATES: u64 = 64;

/// The oldest rows that may go, whether they might still have trained, and why they had not, where that was known.
pub(super) const OLD: &str = "SELECT seq, state IN ('generated', 'scored'), reason FROM rollouts
    WHERE created_ms < ?1 AND state <> 'claimed' AND seq NOT IN
        (SELECT seq FROM update_rollouts WHERE number > (SELECT MAX(number) FROM updates) - ?2)
    ORDER BY created_ms LIMIT ?3";

/// What stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Exchanges that are not older than this.
    pub age: Duration,
    /// What this many of the newest updates used.
    pub n_updates: u64,
}

impl Retention {
    /// As configured; `None`: everything.
    #[must_use]
    pub fn of(config: &config::Ppo) -> Option<Retention> {
        let age = Duration::from_secs(config.log.keep_days * 24 * 60 * 60);
        let n_updates = config.state_every * config.keep_states as u64 + MORE_UPDATES;
        Some(Retention { age, n_updates }).filter(|_| config.log.keep_days > 0)
    }
}

/// When the writer looks again.
pub(super) struct Due {
    retention: Retention,
    pub(super) at: Instant,
}

impl Due {
    pub(super) fn now(retention: Retention) -> Due {
        Due { retention, at: Instant::now() }
    }
}

impl RolloutLog {
    /// From now on old exchanges leave the log, from the oldest on.
    ///
    /// # Errors
    /// When the log is closed or busy.
    pub fn keep(&self, retention: Retention) -> Result<(), LogError> {
        self.call(|reply| Command::Keep(retention, reply))
    }
}

impl Writer {
    /// Removes a piece of what is old, if its time has come.
    pub(super) fn remove_old(&mut self) {
        let Some(due) = self.due.as_mut().filter(|due| due.at <= Instant::now()) else {
            return;
        };
        let pause = match remove(&mut self.connection, due.retention, now_ms()) {
            Ok(removed) => {
                self.counters.dropped.add(DropReason::Outdated, removed.n_untrained);
                if removed.n > 0 {
                    tracing::info!(n = removed.n, "exchanges older than ppo.log.keep_days left the log");
                }
                if removed.n == PIECE { BETWEEN_PIECES } else { EVERY }
            }
            Err(error) => {
                tracing::warn!(%error, "old exchanges could not be removed");
                EVERY
            }
        };
        due.at = Instant::now() + pause;
    }
}

struct Removed {
    n: usize,
    /// Those among them that had not trained and now never will, without having a reason yet.
    n_untrained: u64,
}

/// One transaction.
fn remove(connection: &mut Connection, retention: Retention, now_ms: u64) -> Result<Removed, LogError> {
    let transaction = begin(connection)?;
    let before = now_ms.saturating_sub(u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX));
    let old: Vec<(i64, bool, Option<String>)> = transaction
        .prepare_cached(OLD)?
        .query_map(params![before as i64, retention.n_updates as i64, PIECE as i64], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<Result<_, _>>()?;
    for (seq, _, reason) in &old {
        transaction.prepare_cached("DELETE FROM feedback WHERE seq = ?1")?.execute([seq])?;
        transaction.prepare_cached("DELETE FROM rollouts WHERE seq = ?1")?.execute([seq])?;
        if let Some(reason) = reason {
            gone::count_word(&transaction, reason, 1)?;
        }
    }
    let n_untrained = old.iter().filter(|(_, is_untrained, _)| *is_untrained).count() as u64;
    gone::count(&transaction, DropReason::Outdated, n_untrained)?;
    commit(transaction, "retention.commit")?;
    Ok(Removed { n: old.len(), n_untrained })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_stays() {
        let mut ppo = config::Config::default().ppo;
        assert_eq!(Retention::of(&ppo), None, "the log is the product");
        (ppo.log.keep_days, ppo.state_every, ppo.keep_states) = (2, 16, 3);
        let expected = Retention { age: Duration::from_secs(172_800), n_updates: 112 };
        assert_eq!(Retention::of(&ppo), Some(expected));
    }
}
