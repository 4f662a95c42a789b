//! The life of a rollout, as words in a column.
//!
//! ```text
//! generated ──► scored ──► claimed ──► trained
//!     │   ▲        │ │        │
//!     │   └feedback┘ │        ├──► scored     (claim given back: failed update, crash)
//!     ▼              ▼        ▼
//!  dropped{reason}, expired{stale}   dropped{reason}
//! ```
//! Only when a log is opened, a claim of a dead process goes back to `generated` where a quarantined user had judged it.
//! Every transition is one statement that names the old state, so a late or repeated one changes nothing.

use std::fmt;

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RolloutState {
    /// Answered and logged, not judged yet.
    Generated,
    /// Judged, may be claimed.
    Scored,
    /// Held by an update that runs.
    Claimed,
    /// Part of a published update.
    Trained,
    /// Too old for the trainer before its turn came.
    Expired,
    /// Will not train, for a reason that is kept.
    Dropped,
}

impl RolloutState {
    /// All states, in the order of life.
    pub const ALL: [RolloutState; 6] = [
        RolloutState::Generated,
        RolloutState::Scored,
        RolloutState::Claimed,
        RolloutState::Trained,
        RolloutState::Expired,
        RolloutState::Dropped,
    ];

    /// The word in the column, in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            RolloutState::Generated => "generated",
            RolloutState::Scored => "scored",
            RolloutState::Claimed => "claimed",
            RolloutState::Trained => "trained",
            RolloutState::Expired => "expired",
            RolloutState::Dropped => "dropped",
        }
    }

    /// The state of that word.
    pub fn parse(word: &str) -> Option<RolloutState> {
        RolloutState::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl fmt::Display for RolloutState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a rollout does not train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Its version is further from the trainer's than `ppo.max_staleness` publications, or not among its ancestors.
    Stale,
    /// The response has no token.
    Empty,
    /// The client went away, or the daemon shut down.
    Cancelled,
    /// The client's `max_tokens` cut it off: not the policy's doing, so it must not be punished for it.
    ClientLimit,
    /// Temperature 0: nothing was drawn.
    Greedy,
    /// Penalties, logit bias or a grammar moved the distribution away from the policy's.
    Altered,
    /// Truncation kept less than nine tenths of the mass at some token.
    TruncatedMass,
    /// A log-prob or a score is not a finite number.
    NonFinite,
    /// No feedback came in time and the configured fallback is to drop.
    NoFeedback,
    /// The reward server refuses its text, and judges others.
    JudgeRefused,
    /// Its importance weight left the configured range.
    OffPolicy,
    /// The trainer cannot hold it: longer than its context, or a token it does not know.
    TooLong,
    /// Advantages compare answers to one prompt, and it was the only one in its round.
    Singleton,
    /// Its user or prompt belongs to the share that only measures.
    HeldOut,
    /// Its user is on the quarantine list.
    Quarantined,
    /// It holds what looks like personal data, and its token ids were not written (`ppo.log.scrub_pii`).
    Pii,
    /// A guard rail forbade its update.
    Guard,
    /// It was part of an update whose weights the gate refused.
    Gate,
    /// Updates with it kept failing.
    UpdateFailed,
    /// Its user was forgotten before it trained (counted only, in the table `gone`: the row is no more).
    Forgotten,
    /// It had not trained when `ppo.log.keep_days` were over (counted only, likewise).
    Outdated,
    /// The client asked that it be kept out of the log, with `store: false` (counted only, by this process).
    NotStored,
    /// The writer's queue was full (counted only, by this process: it never reached the log).
    QueueFull,
    /// The log could not be written (counted only, by this process).
    WriteFailed,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [DropReason; 24] = [
        DropReason::Stale,
        DropReason::Empty,
        DropReason::Cancelled,
        DropReason::ClientLimit,
        DropReason::Greedy,
        DropReason::Altered,
        DropReason::TruncatedMass,
        DropReason::NonFinite,
        DropReason::NoFeedback,
        DropReason::JudgeRefused,
        DropReason::OffPolicy,
        DropReason::TooLong,
        DropReason::Singleton,
        DropReason::HeldOut,
        DropReason::Quarantined,
        DropReason::Pii,
        DropReason::Guard,
        DropReason::Gate,
        DropReason::UpdateFailed,
        DropReason::Forgotten,
        DropReason::Outdated,
        DropReason::NotStored,
        DropReason::QueueFull,
        DropReason::WriteFailed,
    ];

    /// The word in the column, in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Stale => "stale",
            DropReason::Empty => "empty",
            DropReason::Cancelled => "cancelled",
            DropReason::ClientLimit => "client_limit",
            DropReason::Greedy => "greedy",
            DropReason::Altered => "altered",
            DropReason::TruncatedMass => "truncated_mass",
            DropReason::NonFinite => "non_finite",
            DropReason::NoFeedback => "no_feedback",
            DropReason::JudgeRefused => "judge_refused",
            DropReason::OffPolicy => "off_policy",
            DropReason::TooLong => "too_long",
            DropReason::Singleton => "singleton",
            DropReason::HeldOut => "held_out",
            DropReason::Quarantined => "quarantined",
            DropReason::Pii => "pii",
            DropReason::Guard => "guard",
            DropReason::Gate => "gate",
            DropReason::UpdateFailed => "update_failed",
            DropReason::Forgotten => "forgotten",
            DropReason::Outdated => "outdated",
            DropReason::NotStored => "not_stored",
            DropReason::QueueFull => "queue_full",
            DropReason::WriteFailed => "write_failed",
        }
    }

    /// The reason of that word.
    pub fn parse(word: &str) -> Option<DropReason> {
        DropReason::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
