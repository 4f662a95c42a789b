//! An update as a row: what is written before it begins, and what is added when it ends.
//!
//! Together with the state before it (`state_before`, [`crate::state`]) the row says everything that an update's result
//! depends on, so that it can be computed again: by a restart, after a crash, and by `honed replay`.

use std::collections::BTreeMap;

use policy::PolicyVersion;

use super::{
    record::{ScoreRecord, Seq},
    transition::Outcome,
};
use crate::stats::UpdateOutcome;

/// How the state before an update came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// It is what the update before it left.
    Continued,
    /// Another version was activated: its weights with fresh moments, the value model as it was.
    Rebased,
    /// Its parent's weights, fresh moments, the value model at its beginning.
    #[default]
    Fresh,
}

impl Start {
    const ALL: [Start; 3] = [Start::Continued, Start::Rebased, Start::Fresh];

    /// The word in the column and in state files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Start::Continued => "continued",
            Start::Rebased => "rebased",
            Start::Fresh => "fresh",
        }
    }

    /// The start of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Start> {
        Start::ALL.into_iter().find(|start| start.as_str() == word)
    }
}

/// Written in the transaction of the claim, before the update begins. By default the first one of all, by nobody in particular.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateStart {
    /// Number of the update over the life of the data directory.
    pub number: u64,
    /// How the state before it came about.
    pub start: Start,
    /// The version that the state stands at.
    pub parent: PolicyVersion,
    /// Digest of that version's file.
    pub parent_digest: String,
    /// Fingerprint of the state.
    pub state_before: String,
    /// [`config::Ppo::assignments`]; the seeds are among them.
    pub config: String,
    /// What computes: device, type, kernels, processor.
    pub arithmetic: String,
    /// Threads of the learner.
    pub n_threads: usize,
    /// Fingerprint of the texts of `ppo.ptx`; empty when none is mixed in.
    pub pretraining: String,
}

/// Written in the transaction that ends the claim.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateEnd {
    /// Number of the update.
    pub number: u64,
    /// Promoted, rejected, or without a step; an update that failed or was interrupted leaves no row.
    pub outcome: UpdateOutcome,
    /// The version that it made, also when the gate refused it.
    pub version: Option<PolicyVersion>,
    /// Digest of that version's file.
    pub digest: Option<String>,
    /// Fingerprint of the state that it left.
    pub state_after: String,
    /// What the round measured, by name.
    pub numbers: BTreeMap<String, f64>,
    /// Rounds in a row that taught nothing, when it belongs to such.
    pub streak: Option<StreakRow>,
}

/// Rounds in a row that taught nothing, as of the end of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreakRow {
    /// Number of the first of them.
    pub first: u64,
    /// How many there are.
    pub n: u32,
    /// They were one too many: the state after this update is the one before the first, what was usual of a step forgotten.
    pub went_back: bool,
}

/// One update.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateRow {
    /// What was written before it began.
    pub start: UpdateStart,
    /// The versions whose rollouts were not stale, freshest first.
    pub lineage: Vec<PolicyVersion>,
    /// How often it was begun: more than once when a process died in it.
    pub n_attempts: u32,
    /// When it was claimed, milliseconds since the Unix epoch.
    pub claimed_ms: u64,
    /// When it ended, likewise.
    pub ended_ms: Option<u64>,
    /// What was written when it ended.
    pub end: Option<UpdateEnd>,
}

/// One rollout of an update with its score as it was used.
#[derive(Clone, Debug, PartialEq)]
pub struct UsedRollout {
    /// Its position in the log; the row may have been removed since.
    pub seq: Seq,
    /// Its score at the claim.
    pub score: ScoreRecord,
}

/// The end of a claim, in one transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settlement {
    /// Rollout by rollout.
    pub outcomes: Vec<(Seq, Outcome)>,
    /// What becomes of the update's row.
    pub update: Option<UpdateChange>,
}

/// What becomes of an update's row at the end of its claim.
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateChange {
    /// It is completed.
    End(Box<UpdateEnd>),
    /// The update came to nothing; its number will be used again.
    Abandon(u64),
}

impl From<Vec<(Seq, Outcome)>> for Settlement {
    fn from(outcomes: Vec<(Seq, Outcome)>) -> Settlement {
        Settlement { outcomes, update: None }
    }
}
