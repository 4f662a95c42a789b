//! What users got lately: for the gate's questions, the canary and the watch.

use rusqlite::{OptionalExtension, params};

use super::LogReader;
use crate::{
    rollout_log::{
        LogError,
        record::{self, LoggedRollout, Seq},
        schema,
    },
    watch::Service,
};
use policy::PolicyVersion;

impl LogReader {
    /// The newest rows up to a position whose responses were drawn to an end and are there, newest first; none that was dropped
    /// because its user is in quarantine.
    pub fn newest(&self, up_to: Seq, limit: usize) -> Result<Vec<LoggedRollout>, LogError> {
        let sql = format!(
            "SELECT {} FROM rollouts WHERE seq <= ?1 AND finish <> 'cancelled'
                AND reason IS NOT 'pii' AND reason IS NOT 'quarantined' ORDER BY seq DESC LIMIT ?2",
            record::COLUMNS
        );
        self.rows(&sql, params![up_to.0, limit as i64])
    }

    /// The position of the newest row; 0 in an empty log.
    pub fn newest_seq(&self) -> Result<Seq, LogError> {
        let newest: Option<i64> = self.connection.query_row("SELECT MAX(seq) FROM rollouts", [], |row| row.get(0))?;
        Ok(Seq(newest.unwrap_or(0)))
    }

    /// Where the log ended when a version went live, the last time that it did; 0 when that is not known: version 0 at the
    /// beginning, a version that never was, and one that did so before the log knew.
    pub fn live_since(&self, version: PolicyVersion) -> Result<Seq, LogError> {
        if !self.has(schema::WITH_SERVICES) {
            return Ok(Seq(0));
        }
        let mut statement = self
            .connection
            .prepare_cached("SELECT after FROM services WHERE version = ?1 ORDER BY number DESC LIMIT 1")?;
        let after: Option<i64> = statement.query_row([version.0 as i64], |row| row.get(0)).optional()?;
        Ok(Seq(after.unwrap_or(0)))
    }

    /// What users got from a version: its first `limit` judged rollouts after `start`.
    pub fn service(&self, version: PolicyVersion, start: Seq, limit: usize) -> Result<Service, LogError> {
        self.service_in(version, start, limit, "ASC")
    }

    /// What users got from a version lately: its last `limit` judged rollouts.
    pub fn last_service(&self, version: PolicyVersion, limit: usize) -> Result<Service, LogError> {
        self.service_in(version, Seq(0), limit, "DESC")
    }

    fn service_in(&self, version: PolicyVersion, start: Seq, limit: usize, order: &str) -> Result<Service, LogError> {
        let mut statement = self.connection.prepare_cached(&LogReader::service_sql(order))?;
        let mut rows = statement.query(params![version.0 as i64, limit as i64, start.0])?;
        let mut service = Service::default();
        while let Some(row) = rows.next()? {
            service.scores.push(row.get(0)?);
            service.judges.push(row.get::<_, Option<String>>(1)?.unwrap_or_default());
            service.lengths.push(row.get::<_, i64>(2)? as f64);
            service.thumbs.0 += row.get::<_, i64>(3)? as usize;
            service.thumbs.1 += row.get::<_, i64>(4)? as usize;
        }
        Ok(service)
    }

    pub(in crate::rollout_log) fn service_sql(order: &str) -> String {
        format!(
            "SELECT score, reward_version, length(response) / 4,
                (SELECT COUNT(*) FROM feedback WHERE feedback.seq = rollouts.seq AND label = 'up'),
                (SELECT COUNT(*) FROM feedback WHERE feedback.seq = rollouts.seq AND label = 'down')
             FROM rollouts WHERE version = ?1 AND seq > ?3 AND score IS NOT NULL ORDER BY seq {order} LIMIT ?2",
        )
    }
}
