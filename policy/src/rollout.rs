//! One exchange with the policy, as the learner needs it.

use crate::{log_prob::LogProb, sampling::SamplingParams, token::TokenId, version::PolicyVersion};

/// Names one sampled response, also in the API: `cmpl-<16 hex digits>-<index>` reads as request and choice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutId {
    /// The `id` that the client got.
    pub request: String,
    /// Which of its choices.
    pub index: u32,
}

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The policy drew one of the model's own end tokens (it is the last token of the response).
    EndToken,
    /// One of the client's stop texts or stop tokens appeared.
    Stop,
    /// The client's `max_tokens` was reached.
    ClientLimit,
    /// The context window was full: the daemon's own limit.
    DaemonLimit,
    /// The client went away, or the daemon shut down.
    Cancelled,
}

/// One drawn token with what is known about the draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledToken {
    /// The token.
    pub id: TokenId,
    /// Its log-probability at temperature 1 over the full vocabulary.
    pub log_prob: LogProb,
    /// Its log-probability in the distribution that was really drawn from, after every stage, renormalised.
    pub behavior: LogProb,
    /// Log of the mass that truncation kept, at the request's temperature; 0 when nothing was cut. Nats.
    pub log_kept_mass: f32,
}

/// A prompt and the response that one version of the policy gave to it. Token ids are never re-tokenised text.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Its name.
    pub id: RolloutId,
    /// The weights that drew every token of the response.
    pub version: PolicyVersion,
    /// The prompt as the model saw it, special tokens included.
    pub prompt: Vec<TokenId>,
    /// The response; ends with the end token when `finish` is [`FinishReason::EndToken`].
    pub response: Vec<SampledToken>,
    /// How it was drawn, the seed filled in.
    pub sampling: SamplingParams,
    /// Why it ended.
    pub finish: FinishReason,
    /// Whom the client named as its user.
    pub user: Option<String>,
    /// Milliseconds since the Unix epoch at which the response was complete.
    pub created_ms: u64,
}
