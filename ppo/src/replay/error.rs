//! Why an update cannot be computed again, or came out differently.

use config::ConfigError;
use policy::{PolicyVersion, model_error::ModelError};

use crate::{
    error::PpoError,
    rollout_log::{LogError, Seq},
};

/// Rollouts that a message names at most.
const N_NAMED: usize = 8;

/// Why an update cannot be computed again, or came out differently.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The arithmetic failed, or was interrupted.
    #[error(transparent)]
    Ppo(#[from] PpoError),
    /// Weights or a state could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Nothing was recorded, so there is no state to come back to.
    #[error("there is no state of the learner and no record of an update")]
    Nothing,
    /// Its record is missing.
    #[error("update {0} has no record")]
    NoRecord(u64),
    /// It runs, or the process died in it.
    #[error("update {0} has not ended")]
    NotEnded(u64),
    /// Its configuration cannot be read by this honed.
    #[error("update {update}: its configuration: {source}")]
    Config {
        /// Which update.
        update: u64,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// Rollouts that it used are no longer in the log.
    #[error(
        "update {update} cannot be computed again: {} of its {n_used} rollouts are no longer in the log: {}",
        missing.len(),
        named(missing)
    )]
    Pruned {
        /// Which update.
        update: u64,
        /// Rollouts that it used.
        n_used: usize,
        /// Those that are gone.
        missing: Vec<Seq>,
    },
    /// A version whose weights it began with is gone.
    #[error("update {update} cannot be computed again: it began with {version}, whose weights are gone: {why}")]
    WeightsGone {
        /// Which update.
        update: u64,
        /// Whose weights.
        version: PolicyVersion,
        /// What is wrong with them.
        why: String,
    },
    /// It came out differently.
    #[error(
        "update {update} came out differently: {what} was {recorded}, and is {rebuilt}; computed by \"{then}\" then, \
         \"{now}\" now{hint}"
    )]
    Different {
        /// Which update.
        update: u64,
        /// What differs.
        what: &'static str,
        /// In its record.
        recorded: Box<str>,
        /// Now.
        rebuilt: Box<str>,
        /// Arithmetic of its record.
        then: Box<str>,
        /// Arithmetic of today.
        now: Box<str>,
        /// What else to look at, after a semicolon; empty where nothing suggests itself.
        hint: Box<str>,
    },
}

impl ReplayError {
    /// Whether a command came first, and nothing is wrong.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(self, ReplayError::Ppo(PpoError::Interrupted))
    }
}

fn named(missing: &[Seq]) -> String {
    let named: Vec<String> = missing.iter().take(N_NAMED).map(|seq| seq.0.to_string()).collect();
    let more = if missing.len() > N_NAMED { ", …" } else { "" };
    format!("rows {}{more}", named.join(", "))
}
