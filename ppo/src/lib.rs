//! What learns: the rollout log, the experience made from it, the PPO update, the gate and publication.
//!
//! The mathematics are plain functions in f64 over flat, ragged slices: sequence after sequence, with the length of each
//! and a mask as arguments. Their gradients are written out, so that they can be read beside the formula, checked
//! against numbers made by another program, and fed to whatever differentiates the model.

pub mod arithmetic;
pub mod averages;
pub mod averaging;
pub mod beginning;
mod clock;
pub mod control;
pub mod error;
pub mod experience;
pub mod fingerprint;
mod form;
pub mod gae;
pub mod gate;
pub mod group;
pub mod guard;
pub mod import;
pub mod kl;
pub mod learner;
pub mod length_penalty;
pub mod loss;
pub mod masked;
pub mod metrics;
pub mod models;
pub mod off_policy;
pub mod optimum;
pub mod parity;
pub mod pii;
pub mod plan;
pub mod publish;
pub mod registry;
pub mod replay;
pub mod rollout_log;
pub mod schedule;
pub mod scoring;
pub mod snapshot;
pub mod staleness;
pub mod state;
pub mod stats;
mod sync_point;
#[cfg(test)]
mod test_world;
pub mod token_rewards;
pub mod update;
pub mod value_model;
pub mod watch;

pub use error::PpoError;
pub use learner::Learner;
pub use models::Models;
pub use registry::Registry;
pub use rollout_log::RolloutLog;
pub use scoring::ScoringPump;
pub use update::{Fate, Round, RoundOutcome, RoundStats};
