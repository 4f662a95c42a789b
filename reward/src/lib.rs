//! What judges: the reward model, its ranking loss, and the sources of scores.

pub mod agreement;
pub mod ensemble;
pub mod margin;
pub mod normalization;
pub mod preference;
pub mod ranking;
pub mod ranking_trainer;
pub mod reward_model;
pub mod score;
pub mod scored_rollout;
pub mod scorer;
pub mod sources;

pub use ensemble::Combination;
pub use preference::{Preference, PreferenceError};
pub use reward_model::{RewardModel, RewardModelError};
pub use score::{Judgement, Score, ScoreError, Scored};
pub use scored_rollout::ScoredRollout;
pub use scorer::{Lane, ScoreJob, ScoreRequest, Scorer, ScorerError, ScorerStats, Sitting};
pub use sources::{Formula, Label, NamedJudge, Opinion, Rules, Ruling, model_of};
