//! What users got lately: for the gate's questions, the canary and the watch.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, params};

use super::{
    LogReader,
    hearing::{Brought, heard, is_one_loud},
};
use crate::{
    length_penalty::{LengthPenalty, cost_of},
    rollout_log::{
        LogError,
        quarantine::Quarantine,
        record::{self, LoggedRollout, Seq},
        schema,
    },
    watch::Service,
};
use policy::PolicyVersion;

/// Samples that are looked through for what others than one loud user have brought.
const WIDER: usize = 4;
/// Samples' worth of answers that are looked through for thumbs, which few answers have.
const THUMBS_WINDOW: usize = 16;

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

    /// Whether a version is live because the watch went back to it.
    pub fn is_live_by_rollback(&self, version: PolicyVersion) -> Result<bool, LogError> {
        if !self.has(schema::WITH_AUDIT) {
            return Ok(false);
        }
        // Each of these is one transaction with the change that it is about, so the newest is about who is live now.
        let sql = "SELECT action = 'rollback' AND subject IS ?1 FROM audit
             WHERE outcome = 'done' AND action IN ('activate', 'rollback', 'promote') ORDER BY number DESC LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([version.to_string()], |row| row.get(0)).optional()?.unwrap_or(false))
    }

    /// Of a version's last exchanges, `window` at most, those that were drawn to an end, whoever asked.
    pub fn n_answers(&self, version: PolicyVersion, window: usize) -> Result<usize, LogError> {
        let mut statement = self.connection.prepare_cached(LogReader::N_ANSWERS)?;
        let parameters = [version.0 as i64, i64::try_from(window).unwrap_or(i64::MAX)];
        Ok(statement.query_row(parameters, |row| row.get::<_, i64>(0))? as usize)
    }

    /// What users got from a version: its first answers after `start`.
    pub fn service(&self, version: PolicyVersion, start: Seq, sample: Sample<'_>) -> Result<Service, LogError> {
        Reading { reader: self, version, start, order: "ASC", sample }.service()
    }

    /// What users got from a version lately: its last answers.
    pub fn last_service(&self, version: PolicyVersion, sample: Sample<'_>) -> Result<Service, LogError> {
        Reading { reader: self, version, start: Seq(0), order: "DESC", sample }.service()
    }

    /// The scores alone of [`LogReader::service`].
    pub fn scores(&self, version: PolicyVersion, start: Seq, sample: Sample<'_>) -> Result<Vec<f64>, LogError> {
        let reading = Reading { reader: self, version, start, order: "ASC", sample };
        let [scored, ..] = LogReader::service_sql(reading.order);
        let scores = reading.heard(|n| reading.scores(&scored, n))?.what;
        Ok(scores.into_iter().map(|(score, _)| score).collect())
    }

    pub(in crate::rollout_log) const N_ANSWERS: &str = "SELECT COUNT(*) FROM
        (SELECT finish FROM rollouts WHERE version = ?1 ORDER BY seq DESC LIMIT ?2) WHERE finish <> 'cancelled'";

    /// Judged rollouts; the same for their lengths, in which whoever judged has no part; and what people said of whatever it
    /// answered. What was drawn greedily or to a grammar has a length of another kind: were it counted, a version would be
    /// another one as soon as others asked.
    pub(in crate::rollout_log) fn service_sql(order: &str) -> [String; 3] {
        let first = |columns: &str, which: &str| {
            format!(
                "SELECT {columns} FROM rollouts WHERE version = ?1 AND seq > ?2 AND {which} ORDER BY seq {order} LIMIT ?3"
            )
        };
        // The window is read from an index alone; of its rows hardly any may have a thumb.
        let window = first("seq", "TRUE");
        [
            first("seq, user, score, reward_version, length(response) / 4", "score IS NOT NULL"),
            first("user, length(response) / 4", "score IS NOT NULL"),
            format!(
                "SELECT feedback.seq, feedback.user, label FROM ({window}) AS answers CROSS JOIN feedback
                 ON feedback.seq = answers.seq WHERE label IS NOT NULL"
            ),
        ]
    }
}

/// How much of a service is read, and who is not heard.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Scores, lengths and thumbs at most, of each.
    pub limit: usize,
    /// Whose words and exchanges do not count.
    pub quarantine: &'a Quarantine,
    /// What length costs; it is taken off every score.
    pub length_penalty: Option<LengthPenalty>,
}

/// What some rows hold.
struct Rows<T> {
    /// Those of them that nobody in quarantine had a part in.
    brought: Vec<Brought<T>>,
    /// All of them.
    n: usize,
}

impl<T> Default for Rows<T> {
    fn default() -> Rows<T> {
        Rows { brought: Vec::new(), n: 0 }
    }
}

impl<T> Rows<T> {
    fn push(&mut self, brought: Option<Brought<T>>) {
        self.brought.extend(brought);
        self.n += 1;
    }
}

/// What counts of what was read.
struct Heard<T> {
    what: Vec<T>,
    /// Whether whatever comes later changes nothing of it, read from the first on.
    is_full: bool,
}

/// One service that is read.
struct Reading<'a> {
    reader: &'a LogReader,
    version: PolicyVersion,
    start: Seq,
    order: &'static str,
    sample: Sample<'a>,
}

impl Reading<'_> {
    fn service(&self) -> Result<Service, LogError> {
        let limit = self.sample.limit;
        let [scored, answered, said] = LogReader::service_sql(self.order);
        let Heard { what, is_full } = self.heard(|n| self.scores(&scored, n))?;
        let (scores, judges) = what.into_iter().unzip();
        let lengths = self.heard(|n| self.lengths(&answered, n))?.what;
        let labels = heard(self.labels(&said, limit.saturating_mul(THUMBS_WINDOW))?, limit);
        let n_up = labels.iter().filter(|label| *label == "up").count();
        Ok(Service { scores, judges, lengths, thumbs: (n_up, labels.len() - n_up), is_full })
    }

    /// What counts of the rows that `read` finds; looks further where one user is most of it.
    fn heard<T>(&self, read: impl Fn(usize) -> Result<Rows<T>, LogError>) -> Result<Heard<T>, LogError> {
        let limit = self.sample.limit;
        let mut window = limit;
        let mut rows = read(window)?;
        if is_one_loud(&rows.brought, limit) {
            window = limit.saturating_mul(WIDER);
            rows = read(window)?;
        }
        let what = heard(rows.brought, limit);
        // Where others than one user have brought little, what counts may never be as many as are wanted.
        Ok(Heard { is_full: rows.n >= window || what.len() >= limit, what })
    }

    fn scores(&self, sql: &str, n: usize) -> Result<Rows<(f64, String)>, LogError> {
        let mut statement = self.reader.connection.prepare_cached(sql)?;
        let mut rows = statement.query(self.parameters(n))?;
        let mut all = Rows::default();
        while let Some(row) = rows.next()? {
            let asked = row.get::<_, Option<String>>(1)?;
            let users = asked.into_iter().chain(self.judged(row.get(0)?)?);
            let cost = cost_of(self.sample.length_penalty, row.get::<_, i64>(4)? as usize);
            let what = (row.get::<_, f64>(2)? - cost, row.get::<_, Option<String>>(3)?.unwrap_or_default());
            all.push(self.brought(users, what));
        }
        Ok(all)
    }

    /// Whose judgement is in the score of a rollout.
    fn judged(&self, seq: i64) -> Result<Vec<String>, LogError> {
        let sql = "SELECT user FROM feedback WHERE seq = ?1 AND applied";
        let mut statement = self.reader.connection.prepare_cached(sql)?;
        let users = statement.query_map([seq], |row| row.get(0))?;
        Ok(users.collect::<Result<_, _>>()?)
    }

    fn lengths(&self, sql: &str, n: usize) -> Result<Rows<f64>, LogError> {
        let mut statement = self.reader.connection.prepare_cached(sql)?;
        let mut rows = statement.query(self.parameters(n))?;
        let mut all = Rows::default();
        while let Some(row) = rows.next()? {
            all.push(self.brought(row.get::<_, Option<String>>(0)?, row.get::<_, i64>(1)? as f64));
        }
        Ok(all)
    }

    fn labels(&self, sql: &str, n: usize) -> Result<Vec<Brought<String>>, LogError> {
        let mut statement = self.reader.connection.prepare_cached(sql)?;
        let rows = statement.query_map(self.parameters(n), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let mut said: Vec<(i64, String, String)> = rows.collect::<Result<_, _>>()?;
        said.sort();
        if self.order == "DESC" {
            said.reverse();
        }
        Ok(said.into_iter().filter_map(|(_, user, label)| self.brought([user], label)).collect())
    }

    fn parameters(&self, n: usize) -> [i64; 3] {
        [self.version.0 as i64, self.start.0, i64::try_from(n).unwrap_or(i64::MAX)]
    }

    /// `None` where somebody in quarantine had a part in it. The nameless user's name is empty.
    fn brought<T>(&self, users: impl IntoIterator<Item = String>, what: T) -> Option<Brought<T>> {
        let users: BTreeSet<String> = users.into_iter().filter(|user| !user.is_empty()).collect();
        let is_heard = !users.iter().any(|user| self.sample.quarantine.holds(Some(user)));
        is_heard.then_some(Brought { users, what })
    }
}
