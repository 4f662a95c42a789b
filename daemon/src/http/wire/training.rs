//! `GET /v1/training`: the learner as people and charts see it.

use std::collections::BTreeMap;

use ppo::{learner::LearnerStatus, stats::UpdateRecord};
use serde::Serialize;
use utoipa::ToSchema;

/// What the learner does, and what its last updates measured.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Training {
    object: &'static str,
    /// Whether this daemon learns at all.
    enabled: bool,
    state: &'static str,
    /// Why it failed or cannot learn.
    reason: Option<String>,
    paused: bool,
    /// The version that it trains on.
    version: u64,
    updates: u64,
    rollouts_per_update: usize,
    /// Rollouts that are judged and wait for an update; capped.
    scored: u64,
    /// Rollouts that wait to be judged; capped.
    generated: u64,
    latest: Option<Update>,
    /// Oldest first.
    history: Vec<Update>,
}

/// One update.
#[derive(Debug, Serialize, ToSchema)]
struct Update {
    update: u64,
    ended_ms: u64,
    parent: u64,
    version: Option<u64>,
    outcome: &'static str,
    /// Why it was refused, failed or made no step; or what the gate objected to when it only observed.
    reason: Option<String>,
    /// From claim to publication; null where that is not known any more.
    seconds: Option<f64>,
    numbers: BTreeMap<String, f64>,
}

impl Training {
    /// Of a learner.
    pub(crate) fn of(status: LearnerStatus, history: Vec<UpdateRecord>) -> Training {
        Training {
            object: "training",
            enabled: true,
            state: status.state.as_str(),
            reason: status.state.reason().map(str::to_owned),
            paused: status.is_paused,
            version: status.version.0,
            updates: status.n_updates,
            rollouts_per_update: status.rollouts_per_update,
            scored: status.n_scored,
            generated: status.n_generated,
            latest: status.latest.map(Update::from),
            history: history.into_iter().map(Update::from).collect(),
        }
    }

    /// Of a daemon without one.
    pub(crate) fn disabled(version: u64) -> Training {
        Training {
            object: "training",
            enabled: false,
            state: "disabled",
            reason: None,
            paused: false,
            version,
            updates: 0,
            rollouts_per_update: 0,
            scored: 0,
            generated: 0,
            latest: None,
            history: Vec::new(),
        }
    }
}

impl From<UpdateRecord> for Update {
    fn from(record: UpdateRecord) -> Self {
        Update {
            update: record.update,
            ended_ms: record.ended_ms,
            parent: record.parent.0,
            version: record.version.map(|version| version.0),
            outcome: record.outcome.as_str(),
            reason: record.reason,
            seconds: record.seconds,
            numbers: record.numbers,
        }
    }
}
