//! What the learner counts, and the record of one update.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use policy::PolicyVersion;

use super::histogram::{Histogram, HistogramSnapshot};
use crate::guard::Guard;

/// What became of one update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpdateOutcome {
    /// Its weights are live.
    Promoted,
    /// The gate refused its weights.
    Rejected,
    /// It made no step of the policy: nothing to publish.
    NoStep,
    /// It broke off with an error; its rollouts were given back, or dropped after too many attempts.
    Failed,
    /// Pause, activation or shutdown came first; its rollouts were given back.
    Interrupted,
}

impl UpdateOutcome {
    /// All outcomes.
    pub const ALL: [UpdateOutcome; 5] = [
        UpdateOutcome::Promoted,
        UpdateOutcome::Rejected,
        UpdateOutcome::NoStep,
        UpdateOutcome::Failed,
        UpdateOutcome::Interrupted,
    ];

    /// The outcome of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<UpdateOutcome> {
        UpdateOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == word)
    }

    /// The word in metrics and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            UpdateOutcome::Promoted => "promoted",
            UpdateOutcome::Rejected => "rejected",
            UpdateOutcome::NoStep => "no_step",
            UpdateOutcome::Failed => "failed",
            UpdateOutcome::Interrupted => "interrupted",
        }
    }
}

/// One update as charts draw it.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateRecord {
    /// Its number over the life of the data directory, from 0.
    pub update: u64,
    /// When it ended, milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// The version that its rollouts trained on.
    pub parent: PolicyVersion,
    /// The version that it made, also when the gate refused it.
    pub version: Option<PolicyVersion>,
    /// What became of it.
    pub outcome: UpdateOutcome,
    /// Why it was refused, failed or made no step; or what the gate objected to when it only observed.
    pub reason: Option<String>,
    /// Everything it measured, by name; TRL's names where TRL has one.
    pub numbers: BTreeMap<String, f64>,
    /// From claim to publication, seconds; `None` of an earlier process's update that another process died in: what the log
    /// has of its beginning is when the first attempt began.
    pub seconds: Option<f64>,
}

/// What the learner counts.
#[derive(Debug, Default)]
pub struct LearnerCounters {
    /// Updates that ended, by outcome.
    outcomes: [AtomicU64; UpdateOutcome::ALL.len()],
    /// Versions activated by hand.
    pub activations: AtomicU64,
    /// Live versions that the watch took back.
    pub rollbacks: AtomicU64,
    /// Rollouts that trained.
    pub trained: AtomicU64,
    /// Response tokens that trained.
    pub trained_tokens: AtomicU64,
    /// Times that serving was asked to rest, so that the learner gets its share.
    pub rests: AtomicU64,
    /// Updates computed again at a start, to come back to where the last process was.
    pub replayed: AtomicU64,
    /// Times that the state could not be rebuilt, so that moments and value model began anew.
    pub resets: AtomicU64,
    /// Trips of the guard rails.
    trips: [AtomicU64; Guard::ALL.len()],
    /// Times that the learner went back to an earlier state after rounds that taught nothing.
    pub restorations: AtomicU64,
    /// Whole updates, from claim to publication.
    pub updates: Histogram,
    /// From a version's file to the first request that it can answer: load and canary, gate, promotion.
    pub swaps: Histogram,
    /// Loading a version, canary included.
    pub loads: Histogram,
    /// Moving the pointer.
    pub promotions: Histogram,
}

/// One reading of [`LearnerCounters`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LearnerCountersSnapshot {
    /// Updates that ended; every outcome has an entry.
    pub outcomes: BTreeMap<UpdateOutcome, u64>,
    /// Versions activated by hand.
    pub activations: u64,
    /// Live versions that the watch took back.
    pub rollbacks: u64,
    /// Rollouts that trained.
    pub trained: u64,
    /// Response tokens that trained.
    pub trained_tokens: u64,
    /// Times that serving was asked to rest.
    pub rests: u64,
    /// Updates computed again at a start.
    pub replayed: u64,
    /// Times that moments and value model began anew.
    pub resets: u64,
    /// Trips of the guard rails; every guard has an entry.
    pub trips: BTreeMap<Guard, u64>,
    /// Times that the learner went back to an earlier state.
    pub restorations: u64,
    /// Whole updates.
    pub updates: HistogramSnapshot,
    /// From a version's file to the first request that it can answer.
    pub swaps: HistogramSnapshot,
    /// Loading a version.
    pub loads: HistogramSnapshot,
    /// Moving the pointer.
    pub promotions: HistogramSnapshot,
}

impl LearnerCounters {
    /// Counts an update.
    pub fn count(&self, outcome: UpdateOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts trips of a guard rail.
    pub fn count_trips(&self, guard: Guard, n: u64) {
        self.trips[guard as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Counts what a published round trained on.
    pub fn count_trained(&self, n_rollouts: u64, n_tokens: u64) {
        self.trained.fetch_add(n_rollouts, Ordering::Relaxed);
        self.trained_tokens.fetch_add(n_tokens, Ordering::Relaxed);
    }

    /// Reads everything.
    #[must_use]
    pub fn snapshot(&self) -> LearnerCountersSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LearnerCountersSnapshot {
            outcomes: UpdateOutcome::ALL
                .into_iter()
                .map(|outcome| (outcome, get(&self.outcomes[outcome as usize])))
                .collect(),
            activations: get(&self.activations),
            rollbacks: get(&self.rollbacks),
            trained: get(&self.trained),
            trained_tokens: get(&self.trained_tokens),
            rests: get(&self.rests),
            replayed: get(&self.replayed),
            resets: get(&self.resets),
            trips: Guard::ALL.into_iter().map(|guard| (guard, get(&self.trips[guard as usize]))).collect(),
            restorations: get(&self.restorations),
            updates: self.updates.snapshot(),
            swaps: self.swaps.snapshot(),
            loads: self.loads.snapshot(),
            promotions: self.promotions.snapshot(),
        }
    }
}
