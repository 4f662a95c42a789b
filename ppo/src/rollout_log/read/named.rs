//! The newest exchange of a family of names: for runs that name their own exchanges, one after the other.

use policy::RolloutId;
use rusqlite::{OptionalExtension, params};

use super::LogReader;
use crate::rollout_log::LogError;

/// From the index of names alone; the plus keeps SQLite from reading the log backwards instead, row by row.
pub(in crate::rollout_log) const NEWEST_NAMED: &str =
    "SELECT request, choice FROM rollouts WHERE request >= ?1 AND request < ?2 ORDER BY +seq DESC LIMIT 1";

impl LogReader {
    /// The id of the newest row whose request is called so at its beginning.
    pub fn newest_named(&self, prefix: &str) -> Result<Option<RolloutId>, LogError> {
        let end = format!("{prefix}{}", char::MAX);
        let newest = self
            .connection
            .prepare_cached(NEWEST_NAMED)?
            .query_row(params![prefix, end], |row| Ok(RolloutId { request: row.get(0)?, index: row.get(1)? }));
        Ok(newest.optional()?)
    }
}
