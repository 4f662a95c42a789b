//! Token counts of one exchange.

use serde::Serialize;
use utoipa::ToSchema;

/// OpenAI's `usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) total_tokens: u64,
    /// Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_tokens_details: Option<PromptDetails>,
}

/// How much of the prompt did not have to be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    pub(crate) cached_tokens: u64,
}

impl Usage {
    /// Each prompt counts once, however many choices it has.
    pub(crate) fn new(prompt_tokens: u64, completion_tokens: u64, cached_tokens: u64) -> Usage {
        let details = Some(PromptDetails { cached_tokens });
        Usage { prompt_tokens_details: details, ..Usage::so_far(prompt_tokens, completion_tokens) }
    }

    /// In the middle of a stream, when nobody has said yet what of the prompt was computed.
    pub(crate) fn so_far(prompt_tokens: u64, completion_tokens: u64) -> Usage {
        let total_tokens = prompt_tokens + completion_tokens;
        Usage { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details: None }
    }
}
