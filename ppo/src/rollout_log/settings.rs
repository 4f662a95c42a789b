//! How a log is opened.

/// How the log behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// `ppo.log.commit_ms`.
    pub commit_ms: u64,
    /// `ppo.log.queue`.
    pub queue: usize,
    /// The reward source listens to feedback, so feedback on a scored rollout has it scored again.
    pub rescore_on_feedback: bool,
}
