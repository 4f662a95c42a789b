//! One row of the rollout log: `GET /v1/rollouts`, and a line of `honed rollouts export`.

use policy::{Rollout, SamplingParams};
use ppo::{
    pii::RedactedText,
    rollout_log::{Feedback, LogStats, LoggedRollout, finish_word},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::feedback::label_word;

/// A page of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RolloutPage {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<RolloutRow>,
    /// Where the next page begins; null when this one is empty.
    pub(crate) next_after: Option<i64>,
}

/// One row. Token ids, not text: what trains is what was drawn. Only what was redacted is text, and it has no token ids.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RolloutRow {
    object: &'static str,
    seq: i64,
    id: String,
    index: u32,
    version: u64,
    created_ms: u64,
    user: Option<String>,
    state: &'static str,
    reason: Option<&'static str>,
    finish: &'static str,
    prompt_token_ids: Vec<u32>,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    behavior_logprobs: Vec<f32>,
    log_kept_mass: Vec<f32>,
    sampling: Sampling,
    score: Option<f64>,
    score_std: Option<f64>,
    reward_version: Option<String>,
    trained_version: Option<u64>,
    feedback: Vec<FeedbackRow>,
    /// Of an exchange whose token ids were not written, because it holds what looks like personal data.
    redacted: Option<Redacted>,
}

/// A text without what looks like personal data.
#[derive(Debug, Serialize, ToSchema)]
struct Redacted {
    prompt: String,
    response: String,
}

/// How it was drawn.
#[derive(Debug, Serialize, ToSchema)]
struct Sampling {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    repetition_penalty: f32,
    seed: Option<u64>,
    max_tokens: u32,
    min_tokens: u32,
    ignore_eos: bool,
    /// A grammar said which tokens may come next: it never trains.
    constrained: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct FeedbackRow {
    user: Option<String>,
    score: Option<f64>,
    label: Option<&'static str>,
    edit: Option<String>,
    comment: Option<String>,
    created_ms: u64,
}

impl From<LoggedRollout> for RolloutRow {
    fn from(row: LoggedRollout) -> Self {
        let Rollout { id, version, prompt, response, sampling, finish, user, created_ms } = row.rollout;
        let score = row.score.as_ref();
        RolloutRow {
            object: "rollout",
            seq: row.seq.0,
            id: id.request,
            index: id.index,
            version: version.0,
            created_ms,
            user,
            state: row.state.as_str(),
            reason: row.reason.map(|reason| reason.as_str()),
            finish: finish_word(finish),
            prompt_token_ids: prompt.iter().map(|token| token.0).collect(),
            token_ids: response.iter().map(|token| token.id.0).collect(),
            logprobs: response.iter().map(|token| token.log_prob.0).collect(),
            behavior_logprobs: response.iter().map(|token| token.behavior.0).collect(),
            log_kept_mass: response.iter().map(|token| token.log_kept_mass).collect(),
            sampling: Sampling::from(&sampling),
            score: score.map(|score| score.score),
            score_std: score.and_then(|score| score.std),
            reward_version: score.map(|score| score.reward_version.clone()),
            trained_version: row.trained_version.map(|version| version.0),
            feedback: row.feedback.into_iter().map(FeedbackRow::from).collect(),
            redacted: row.redacted.map(|RedactedText { prompt, response }| Redacted { prompt, response }),
        }
    }
}

impl From<&SamplingParams> for Sampling {
    fn from(s: &SamplingParams) -> Self {
        Sampling {
            temperature: s.temperature,
            top_k: s.top_k,
            top_p: s.top_p,
            min_p: s.min_p,
            presence_penalty: s.presence_penalty,
            frequency_penalty: s.frequency_penalty,
            repetition_penalty: s.repetition_penalty,
            seed: s.seed,
            max_tokens: s.max_tokens,
            min_tokens: s.min_tokens,
            ignore_eos: s.ignore_eos,
            constrained: s.constrained,
        }
    }
}

impl From<Feedback> for FeedbackRow {
    fn from(f: Feedback) -> Self {
        FeedbackRow {
            user: f.user,
            score: f.score,
            label: f.label.map(label_word),
            edit: f.edit,
            comment: f.comment,
            created_ms: f.created_ms,
        }
    }
}

/// Counts over the whole log, for `honed rollouts stats --json` and `/v1/training`.
#[derive(Debug, Serialize)]
pub(crate) struct RolloutStats {
    rollouts: u64,
    by_state: serde_json::Map<String, serde_json::Value>,
    by_version: serde_json::Map<String, serde_json::Value>,
    dropped: serde_json::Map<String, serde_json::Value>,
    feedback: u64,
}

impl From<&LogStats> for RolloutStats {
    fn from(stats: &LogStats) -> Self {
        RolloutStats {
            rollouts: stats.n_rollouts,
            by_state: stats.by_state.iter().map(|(state, n)| (state.to_string(), (*n).into())).collect(),
            by_version: stats.by_version.iter().map(|(version, n)| (version.0.to_string(), (*n).into())).collect(),
            dropped: stats.dropped.iter().map(|(reason, n)| (reason.to_string(), (*n).into())).collect(),
            feedback: stats.n_feedback,
        }
    }
}
