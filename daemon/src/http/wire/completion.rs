//! `POST /v1/completions`.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    fields::{FieldError, Fields},
    log_probs::LegacyLogProbs,
    prompt::{self, Prompt},
    prompt_log_probs::PromptLogProbs,
    sampling::{Generation, LOG_PROBS_MAX},
    timings::Timings,
    usage::Usage,
};

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
        let generation = Generation::take(&mut f, &["max_tokens"], 0)?;
        if generation.max_tokens == Some(0) && !echo && generation.prompt_log_probs.is_none() {
            return Err(f.error("max_tokens", "must be at least 1 unless `echo` is true or `prompt_logprobs` is given"));
        }
        // Behaviour log-probs live in the `logprobs` object, so asking for them asks for it.
        let log_probs = log_probs.or(generation.return_behavior_logprobs.then_some(0));
        Ok(CompletionRequest { prompts: prompt::take(&mut f)?, generation, echo, log_probs })
    }

    /// Alternatives per token of the prompt that the answer needs; `None` when it tells nothing about the prompt's tokens.
    pub(crate) fn prompt_log_probs(&self) -> Option<u32> {
        // `None` is less than any number.
        self.log_probs.filter(|_| self.echo).max(self.generation.prompt_log_probs)
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
    /// Of a whole answer, or in the last chunk of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timings: Option<Timings>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<PromptLogProbs>,
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
        ];
        for (param, json) in cases {
            let error = CompletionRequest::parse(json.as_bytes()).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
    }

    #[test]
    fn echo_scores_the_prompt_as_deep_as_anybody_asks() {
        let scored = |json: &str| {
            let r = CompletionRequest::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
            r.prompt_log_probs()
        };
        assert_eq!(scored(r#"{"prompt":"a","echo":true}"#), None);
        assert_eq!(scored(r#"{"prompt":"a","logprobs":3}"#), None);
        assert_eq!(scored(r#"{"prompt":"a","echo":true,"logprobs":3,"max_tokens":0}"#), Some(3));
        assert_eq!(scored(r#"{"prompt":"a","echo":true,"logprobs":3,"prompt_logprobs":5}"#), Some(5));
        assert_eq!(scored(r#"{"prompt":"a","prompt_logprobs":0,"max_tokens":0}"#), Some(0));
    }

    #[test]
    fn behavior_log_probs_ask_for_the_object_they_live_in() {
        let r = CompletionRequest::parse(br#"{"prompt":"a","return_behavior_logprobs":true}"#).expect("well-formed");
        assert_eq!(r.log_probs, Some(0));
    }
}
