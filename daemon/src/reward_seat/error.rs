//! Why the reward model stays the one that it is.

use ppo::rollout_log::LogError;

/// What is wrong with an order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeatError {
    /// Scores come from elsewhere.
    #[error("no reward model judges here (reward.source, reward.model)")]
    NoSeat,
    /// Another order is being carried out.
    #[error("another reward model is being read; try again when it is done")]
    Busy,
    /// Somebody was faster.
    #[error("expected {expected} to judge, found {found}")]
    Changed {
        /// As the order says.
        expected: String,
        /// Who judges.
        found: String,
    },
    /// Files are not taken from anywhere.
    #[error("no folder is configured that reward models may be read from (reward.folder)")]
    NoFolder,
    /// The path leads out of the folder, or nowhere.
    #[error("there is no such file in the folder of reward.folder")]
    Outside,
    /// The file cannot judge.
    #[error("the file cannot be used: {0}")]
    Refused(String),
    /// The rollout log did not take note.
    #[error(transparent)]
    Log(#[from] LogError),
}
