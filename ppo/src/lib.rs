//! What learns: the rollout log, the experience made from it, the PPO update, the gate, and publication.

pub mod rollout_log;
pub mod stats;

pub use rollout_log::RolloutLog;
