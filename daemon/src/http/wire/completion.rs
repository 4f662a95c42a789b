//! `POST /v1/completions`.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    fields::{FieldError, Fields},
    log_probs::LegacyLogProbs,
    prompt::{self, Prompt},
    sampling::Generation,
    usage::Usage,
};

/// Alternatives per token at most (vLLM's default; OpenAI allows 5).
pub(crate) const LOG_PROBS_MAX: u32 = 20;

/// A completion request that is well-formed by itself.
pub(crate) struct CompletionRequest {
    /// What chat shares.
    pub(crate) generation: Generation,
    /// At least one prompt, none empty.
    pub(crate) prompts: Vec<Prompt>,
    /// Repeat the prompt in front of the response.
    pub(crate) echo: bool,
    /// Alternatives per token; `None` leaves log-probabilities out.
    pub(crate) log_probs: Option<u32>,
}

impl CompletionRequest {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8]) -> Result<CompletionRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        f.refuse(&["suffix", "prompt_embeds"])?;
        let echo = f.boolean("echo")?.unwrap_or(false);
        let log_probs = f.count("logprobs", 0..=LOG_PROBS_MAX)?;
        let generation = Generation::take(&mut f, &["max_tokens"])?;
        if echo && (log_probs.is_some() || generation.return_behavior_logprobs) {
            return Err(f.error("echo", "together with `logprobs` is not supported by this version of honed"));
        }
        if generation.max_tokens == Some(0) && !echo {
            return Err(f.error("max_tokens", "must be at least 1 unless `echo` is true"));
        }
        // Behaviour log-probs live in the `logprobs` object, so asking for them asks for it.
        let log_probs = log_probs.or(generation.return_behavior_logprobs.then_some(0));
        Ok(CompletionRequest { prompts: prompt::take(&mut f)?, generation, echo, log_probs })
    }
}

/// A whole answer, or one chunk of a stream: the shape is the same.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) system_fingerprint: &'a str,
    pub(crate) choices: Vec<CompletionChoice>,
    /// Absent, or null, or counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub(crate) usage: Option<Option<Usage>>,
}

/// One response, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    pub(crate) index: u32,
    pub(crate) text: String,
    pub(crate) logprobs: Option<LegacyLogProbs>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_fields_are_named() {
        let cases = [
            ("prompt", r#"{}"#),
            ("logprobs", r#"{"prompt":"a","logprobs":21}"#),
            ("logprobs", r#"{"prompt":"a","logprobs":-1}"#),
            ("logprobs", r#"{"prompt":"a","logprobs":true}"#),
            ("suffix", r#"{"prompt":"a","suffix":"b"}"#),
            ("max_tokens", r#"{"prompt":"a","max_tokens":0}"#),
            ("max_tokens", r#"{"prompt":"a","max_tokens":"5"}"#),
            ("max_tokens", r#"{"prompt":"a","max_tokens":2147483648}"#),
            ("echo", r#"{"prompt":"a","echo":true,"logprobs":1}"#),
        ];
        for (param, json) in cases {
            let error = CompletionRequest::parse(json.as_bytes()).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
    }

    #[test]
    fn behavior_log_probs_ask_for_the_object_they_live_in() {
        let r = CompletionRequest::parse(br#"{"prompt":"a","return_behavior_logprobs":true}"#).expect("well-formed");
        assert_eq!(r.log_probs, Some(0));
    }
}
