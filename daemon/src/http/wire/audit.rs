//! One row of the audit log: `GET /v1/audit`, and a line of `honed audit --json`.

use ppo::rollout_log::{self, Act, Who};
use serde::Serialize;
use utoipa::ToSchema;

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditPage {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<AuditRow>,
    /// Where the next page begins; null when this one is empty.
    pub(crate) next_after: Option<u64>,
}

/// Who did what, and how it ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditRow {
    object: &'static str,
    /// Its place, from 1; never reused.
    number: u64,
    at_ms: u64,
    /// `key:` and eight hex digits of the key's SHA-256, `local` where no key is asked for, `cli`, `signal`, `folder`,
    /// `learner`, `watch` or `start`.
    actor: String,
    /// Address of the other end of the connection.
    remote: Option<String>,
    /// `x-request-id` of the request.
    request: Option<String>,
    action: &'static str,
    /// `policy@N`, a file as it was named, `model@<digest>`, or `user:` and a digest of the name.
    subject: Option<String>,
    /// `done` or `refused`.
    outcome: &'static str,
    /// Why it was refused, or what it came to.
    detail: Option<String>,
}

impl AuditRow {
    /// Its place.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl From<rollout_log::AuditRow> for AuditRow {
    fn from(row: rollout_log::AuditRow) -> AuditRow {
        let outcome = row.outcome();
        let rollout_log::AuditRow { number, at_ms, act, detail, .. } = row;
        let Act { who: Who { actor, remote, request }, action, subject } = act;
        let action = action.as_str();
        AuditRow { object: "audit.row", number, at_ms, actor, remote, request, action, subject, outcome, detail }
    }
}
