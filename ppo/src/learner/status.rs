//! What can be seen of the learner from outside, without waiting for it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use policy::PolicyVersion;

use super::past::Past;
use crate::stats::UpdateRecord;

/// Updates that are remembered.
pub const HISTORY_MAX: usize = 1000;

/// What the learner is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LearnerState {
    /// It builds its models.
    Loading,
    /// It waits for enough scored rollouts.
    Waiting,
    /// It learns.
    Updating,
    /// It brings new weights into service.
    Publishing,
    /// It does nothing until it is resumed or told to step.
    Paused,
    /// A guard rail made it pause, for this reason; it does nothing until it is resumed or told to step.
    Halted(String),
    /// The last attempt failed, for this reason; it will try again.
    Failed(String),
    /// It cannot learn from this model at all, for this reason; activations still work.
    Unable(String),
    /// It has ended.
    Stopped,
}

impl LearnerState {
    /// The word in the API.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            LearnerState::Loading => "loading",
            LearnerState::Waiting => "waiting",
            LearnerState::Updating => "updating",
            LearnerState::Publishing => "publishing",
            LearnerState::Paused => "paused",
            LearnerState::Halted(_) => "halted",
            LearnerState::Failed(_) => "failed",
            LearnerState::Unable(_) => "unable",
            LearnerState::Stopped => "stopped",
        }
    }

    /// Why, when it fails or was made to pause.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            LearnerState::Failed(reason) | LearnerState::Unable(reason) | LearnerState::Halted(reason) => Some(reason),
            _ => None,
        }
    }
}

/// One look at the learner.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnerStatus {
    /// What it is doing.
    pub state: LearnerState,
    /// Whether it was told to pause; it may still finish an update.
    pub is_paused: bool,
    /// The version that it trains on.
    pub version: PolicyVersion,
    /// Updates over the life of the data directory, whatever became of them.
    pub n_updates: u64,
    /// Rollouts of one update.
    pub rollouts_per_update: usize,
    /// Rollouts that are judged and could be claimed, as of the last look, at most a few updates' worth.
    pub n_scored: u64,
    /// Rollouts that wait to be judged, likewise.
    pub n_generated: u64,
    /// The newest update.
    pub latest: Option<UpdateRecord>,
}

/// The board on which the learner writes; readers copy from it. The lock is held for the copy only.
#[derive(Debug)]
pub(super) struct Board(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    status: LearnerStatus,
    history: VecDeque<UpdateRecord>,
}

impl Board {
    pub(super) fn new(version: PolicyVersion, rollouts_per_update: usize, past: Past) -> Board {
        let (n_scored, n_generated) = past.backlog;
        let status = LearnerStatus {
            state: LearnerState::Loading,
            is_paused: false,
            version,
            n_updates: past.n_updates,
            rollouts_per_update,
            n_scored,
            n_generated,
            latest: past.history.last().cloned(),
        };
        Board(Mutex::new(Inner { status, history: past.history.into() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked while writing left a whole value: every write is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> LearnerStatus {
        self.lock().status.clone()
    }

    pub(super) fn history(&self) -> Vec<UpdateRecord> {
        self.lock().history.iter().cloned().collect()
    }

    pub(super) fn write<T>(&self, change: impl FnOnce(&mut LearnerStatus) -> T) -> T {
        change(&mut self.lock().status)
    }

    pub(super) fn set_state(&self, state: LearnerState) {
        self.write(|status| status.state = state);
    }

    pub(super) fn record(&self, record: UpdateRecord) {
        let mut inner = self.lock();
        if inner.history.len() == HISTORY_MAX {
            inner.history.pop_front();
        }
        inner.history.push_back(record.clone());
        inner.status.latest = Some(record);
    }
}
