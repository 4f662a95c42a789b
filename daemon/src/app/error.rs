//! Why the daemon did not start.

use std::path::PathBuf;

/// What failed, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address is taken, malformed, or not this machine's.
    #[error("cannot listen on {address}: {source} (daemon.listen)")]
    Listen {
        /// As configured.
        address: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A key file is missing, unreadable or empty.
    #[error("cannot use the key file {path}: {source}")]
    Keys {
        /// As configured.
        path: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// Failpoints that are none, or in a build that has no use for them.
    #[error("cannot arm the failpoints: {0} (daemon.failpoints)")]
    Failpoints(String),
    /// A file of the data directory could not be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        reason: String,
    },
    /// A model file that is none.
    #[error("cannot use {path}: {reason} ({key})")]
    NotAFile {
        /// The knob that names it.
        key: &'static str,
        /// As configured.
        path: String,
        /// Why.
        reason: String,
    },
    /// Nothing is configured that could judge this model's responses.
    #[error(
        "the built-in reward model fits the built-in policy only; name a judge for your model with --reward-url URL \
         (reward.remote_url), reward.model=FILE or reward.source=feedback, or turn learning off with ppo.enabled=false"
    )]
    NoJudge,
    /// The model cannot be served.
    #[error("cannot serve {}: {reason} (policy.model)", path.display())]
    Model {
        /// As configured, or where the built-in one lies.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The live version cannot be loaded. Nobody is served an older one in its place unasked.
    #[error(
        "{version}, the live version, cannot be loaded: {source}; start again when what it lacks is there, or make another \
         version live first: `honed policies list`, `honed policies activate N`"
    )]
    Live {
        /// The live version.
        version: policy::PolicyVersion,
        /// Why.
        source: policy::engine::EngineError,
    },
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] policy::engine::EngineError),
    /// The rollout log cannot be used.
    #[error(transparent)]
    Log(#[from] ppo::rollout_log::LogError),
    /// The versions cannot be used.
    #[error(transparent)]
    Registry(#[from] ppo::registry::RegistryError),
    /// The reward model cannot be used.
    #[error("reward model {path}: {reason}")]
    RewardModel {
        /// The file, or where else it came from.
        path: String,
        /// Why.
        reason: String,
    },
    /// The pretraining text cannot be used.
    #[error("pretraining text {path}: {reason} (ppo.ptx_file)")]
    Text {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The gate's questions cannot be used.
    #[error("questions for the gate, {path}: {reason} (ppo.gate_file)")]
    Questions {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The learner cannot start.
    #[error("the learner cannot start: {0}")]
    Learner(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A bug; its message is in the log.
    #[error("loading panicked; the log says where")]
    Panicked,
}
