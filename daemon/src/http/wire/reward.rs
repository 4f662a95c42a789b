//! `POST /v1/rewards` and `POST /get_reward`.

use policy::chat_template::Message;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    fields::{FieldError, Fields},
    score::answered,
    scoring::ScoringOptions,
    usage::Usage,
};

/// Inputs in one request at most.
const INPUTS_MAX: usize = 1024;
/// Seconds that OpenRLHF waits make larger batches pointless.
const QUERIES_MAX: usize = 4096;

/// What is to be judged.
#[derive(Clone, Debug)]
pub(crate) enum RewardInput {
    /// A plain prompt and its completion.
    Plain {
        /// The prompt.
        prompt: String,
        /// The completion.
        completion: String,
    },
    /// A conversation whose last message is the assistant's.
    Chat(Vec<Message>),
}

/// `POST /v1/rewards`.
#[derive(Debug)]
pub(crate) struct RewardRequest {
    /// What all scoring routes share.
    pub(crate) options: ScoringOptions,
    /// At least one.
    pub(crate) input: Vec<RewardInput>,
}

impl RewardRequest {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8]) -> Result<RewardRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        let list = match f.required("input")? {
            Value::Object(map) => vec![Value::Object(map)],
            Value::Array(list) if (1..=INPUTS_MAX).contains(&list.len()) => list,
            _ => {
                return Err(f.error("input", &format!("must be a list of 1..={INPUTS_MAX} objects")));
            }
        };
        let input = list.into_iter().enumerate().map(|(i, value)| one(value, &format!("input[{i}]")));
        Ok(RewardRequest { options: ScoringOptions::take(&mut f)?, input: input.collect::<Result<_, _>>()? })
    }
}

fn one(value: Value, path: &str) -> Result<RewardInput, FieldError> {
    let mut f = Fields::of(value, path)?;
    let prompt = f.text("prompt", usize::MAX)?;
    let completion = f.text("completion", usize::MAX)?;
    if (prompt.is_some() || completion.is_some()) && f.has("messages") {
        return Err(f.error("messages", "must not be given beside `prompt` and `completion`"));
    }
    match (prompt, completion) {
        (Some(prompt), Some(completion)) => Ok(RewardInput::Plain { prompt, completion }),
        (None, None) => answered(&mut f).map(RewardInput::Chat),
        (None, _) => Err(f.error("prompt", "is required beside `completion`")),
        (_, None) => Err(f.error("completion", "is required beside `prompt`")),
    }
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RewardList {
    pub(crate) object: &'static str,
    pub(crate) model: String,
    /// Who judged, as in the rollout log.
    pub(crate) reward_version: String,
    pub(crate) data: Vec<RewardEntry>,
    pub(crate) usage: Usage,
}

/// One score, normalised, never a softmax.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RewardEntry {
    pub(crate) index: usize,
    pub(crate) object: &'static str,
    pub(crate) score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) std: Option<f64>,
}

/// `POST /get_reward`: whole texts, special tokens included, and the prompts that they begin with when known.
#[derive(Debug)]
pub(crate) struct GetRewardRequest {
    /// What all scoring routes share.
    pub(crate) options: ScoringOptions,
    /// Prompt and response as one text.
    pub(crate) query: Vec<String>,
    /// The prompts alone; empty or as many as queries.
    pub(crate) prompts: Vec<String>,
}

impl GetRewardRequest {
    /// Reads a body; `labels` are accepted and not used.
    pub(crate) fn parse(body: &[u8]) -> Result<GetRewardRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        let options = ScoringOptions::take(&mut f)?;
        let query = f.texts("query", QUERIES_MAX)?.unwrap_or_default();
        if query.is_empty() || query.iter().any(String::is_empty) {
            return Err(f.error("query", "must be a list of texts that are not empty"));
        }
        let prompts = f.texts("prompts", QUERIES_MAX)?.unwrap_or_default();
        match prompts.is_empty() || prompts.len() == query.len() {
            true => Ok(GetRewardRequest { options, query, prompts }),
            false => Err(
                f.disagrees("prompts", &format!("must be as many as `query`: {}, not {}", query.len(), prompts.len()))
            ),
        }
    }
}

/// OpenRLHF reads `rewards` for training and `scores` for filtering.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetRewardResponse {
    pub(crate) rewards: Vec<f64>,
    pub(crate) scores: Vec<f64>,
    pub(crate) extra_logs: ExtraLogs,
}

/// Means for OpenRLHF's dashboard.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExtraLogs {
    pub(crate) reward_mean: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_inputs_are_named() {
        let cases = [
            ("input", r#"{}"#),
            ("input", r#"{"input":[]}"#),
            ("input[0]", r#"{"input":["a"]}"#),
            ("input[0].completion", r#"{"input":[{"prompt":"a"}]}"#),
            ("input[0].messages", r#"{"input":[{"prompt":"a","completion":"b","messages":[]}]}"#),
            ("input[0].messages", r#"{"input":[{"messages":[{"role":"user","content":"a"}]}]}"#),
            ("input[1].prompt", r#"{"input":[{"prompt":"a","completion":"b"},{"completion":"b"}]}"#),
        ];
        for (param, json) in cases {
            let error = RewardRequest::parse(json.as_bytes()).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
        let error = GetRewardRequest::parse(br#"{"query":["a","b"],"prompts":["a"]}"#).expect_err("lengths differ");
        assert_eq!(error.param.as_deref(), Some("prompts"));
    }
}
