//! The audit log: one row for everything that an administrator, or the daemon by itself, did to what serves and to what is kept.
//!
//! A change of versions and the row about it are one transaction, and so are a user's removal and its row: neither is there
//! without the other. What leaves no trace in the database (a pause, other keys, another reward model) is noted right after it
//! was done or refused. A note that cannot be written takes nothing back, since a disk that is full must not keep anybody from
//! pausing; it is counted (`honed_audit_failures_total`), and the process's log gets its words.
//!
//! Rows are only ever added: triggers refuse changes and removals. There are a few a day from people, and one or two an update
//! from the learner, so nothing bounds them, as nothing bounds the exchanges that they are about.

mod act;

use std::sync::atomic::Ordering;

use policy::PolicyVersion;
use rusqlite::{Connection, params};

pub use act::{Act, Action, AuditRow, Who, user_subject};

use super::{
    RolloutLog,
    error::LogError,
    version_row::{VersionChange, VersionState},
    writer::Command,
};
impl RolloutLog {
    /// Notes what somebody did outside of any transaction; returns after the commit. What cannot be noted is counted and logged.
    pub fn note(&self, row: AuditRow) {
        let words = format!("{row:?}");
        if let Err(error) = self.call(|reply| Command::Audit(Box::new(row), reply)) {
            self.shared.counters.audit_failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, row = words, "the audit log could not be written; this line stands for the row");
        }
    }
}

/// The rows that belong to a change of versions, in their order; none where nothing was decided yet.
pub(super) fn of_change(change: &VersionChange, who: &Who) -> Vec<AuditRow> {
    let act = |action, version: &PolicyVersion| Act::new(who, action, version.to_string());
    let told = |act: Act, why: &Option<String>| match why {
        Some(why) => act.done_with(why),
        None => act.done(),
    };
    match change {
        VersionChange::Register(_) | VersionChange::Withdraw => vec![],
        VersionChange::Publish { version, report, .. } => vec![told(act(Action::Promote, version), &report.remark)],
        // Whoever brings a file wants it in; the learner's candidates are judged by the daemon itself, and
        // what a crash left is given up by it.
        VersionChange::Reject { version, reason, .. } => vec![match *who == Who::learner() || *who == Who::start() {
            true => act(Action::Reject, version).done_with(reason),
            false => act(Action::Import, version).refused(reason),
        }],
        VersionChange::Keep { version, report } => {
            let action = if *who == Who::learner() { Action::Keep } else { Action::Import };
            vec![told(act(action, version), &report.remark)]
        }
        VersionChange::Activate { version, why, .. } => {
            let action = if *who == Who::watch() { Action::Rollback } else { Action::Activate };
            vec![told(act(action, version), why)]
        }
        VersionChange::Replace { version, damaged, why } => {
            let retired = damaged.iter().map(|(version, what)| act(Action::Retire, version).done_with(what));
            retired.chain([act(Action::Activate, version).done_with(why)]).collect()
        }
        VersionChange::Move { version, to, reason, .. } => match to {
            VersionState::Retired => vec![told(act(Action::Retire, version), reason)],
            VersionState::Rejected => vec![told(act(Action::Reject, version), reason)],
            _ => vec![],
        },
    }
}

pub(super) fn insert(connection: &Connection, row: &AuditRow) -> Result<(), LogError> {
    let AuditRow { at_ms, act: Act { who, action, subject }, detail, .. } = row;
    let mut statement = connection.prepare_cached(
        "INSERT INTO audit (at_ms, actor, remote, request, action, subject, outcome, detail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    statement.execute(params![
        *at_ms as i64,
        who.actor,
        who.remote,
        who.request,
        action.as_str(),
        subject,
        row.outcome(),
        detail
    ])?;
    Ok(())
}

/// Rows after a number, oldest first.
pub(super) fn page(connection: &Connection, after: u64, limit: usize) -> Result<Vec<AuditRow>, LogError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, at_ms, actor, remote, request, action, subject, outcome, detail FROM audit
         WHERE number > ?1 ORDER BY number LIMIT ?2",
    )?;
    let mut found = statement.query(params![i64::try_from(after).unwrap_or(i64::MAX), limit as i64])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let (number, action, outcome): (i64, String, String) = (row.get(0)?, row.get(5)?, row.get(7)?);
        let unknown = LogError::Corrupt { seq: number, what: format!("audit: action {action:?} is unknown") };
        rows.push(AuditRow {
            number: number as u64,
            at_ms: row.get::<_, i64>(1)? as u64,
            act: Act {
                who: Who { actor: row.get(2)?, remote: row.get(3)?, request: row.get(4)? },
                action: Action::parse(&action).ok_or(unknown)?,
                subject: row.get(6)?,
            },
            is_done: outcome == "done",
            detail: row.get(8)?,
        });
    }
    Ok(rows)
}
