//! What goes into the engine and what comes out of it: plain data, so that the daemon never sees llama.cpp.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    log_prob::LogProb,
    rollout::{Rollout, SampledToken},
    sampling::{OutOfRange, SamplingParams, check_token, within},
    token::TokenId,
    version::PolicyVersion,
};

/// Choices that one request may ask for (OpenAI's limit).
pub const CHOICES_MAX: u32 = 128;
/// Alternatives that a token may be reported with.
pub const TOP_LOG_PROBS_MAX: u32 = 20;

/// Which version answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whatever is live when the request is admitted.
    Live,
    /// This one and no other.
    Version(PolicyVersion),
}

/// Raised by the client's side, read by the engine between decode steps. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks the engine to end the request; it does so within one decode step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`CancelFlag::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Where the events of one request go. Called on the resident's owner thread, so it must never block.
pub type Sink = Box<dyn FnMut(Event) + Send>;

/// One prompt and how to answer it.
pub struct GenerateRequest {
    /// The `id` that the client gets; names the rollouts.
    pub id: String,
    /// The prompt, special tokens included. Not empty.
    pub prompt: Vec<TokenId>,
    /// Responses to draw. `1..=128`
    pub n: u32,
    /// How to draw them. Choice `i` uses stream `i` of the seed.
    pub sampling: SamplingParams,
    /// Alternatives to report with each token. `0..=20`
    pub top_logprobs: u32,
    /// Whom the client named as its user.
    pub user: Option<String>,
    /// Ends the request early.
    pub cancel: CancelFlag,
    /// Receives the events.
    pub sink: Sink,
}

impl GenerateRequest {
    /// Judges everything that would reach C++: ranges, token ids, and the prompt's length against the context window.
    ///
    /// # Errors
    /// The first field that is out of range, with its rule.
    pub fn check(&self, n_vocab: usize, context_tokens: u32) -> Result<(), OutOfRange> {
        within("n", self.n, 1..=CHOICES_MAX)?;
        within("top_logprobs", self.top_logprobs, 0..=TOP_LOG_PROBS_MAX)?;
        if self.prompt.is_empty() {
            return Err(OutOfRange { field: "prompt", rule: "must not be empty".into() });
        }
        // One position must be left for the first token of the response.
        if self.prompt.len() >= context_tokens as usize {
            let rule = format!(
                "must be shorter than the context window of {context_tokens} tokens, got {} tokens",
                self.prompt.len()
            );
            return Err(OutOfRange { field: "prompt", rule });
        }
        self.prompt.iter().try_for_each(|&id| check_token("prompt", id, n_vocab))?;
        self.sampling.check(n_vocab)
    }
}

/// Why a request was not admitted. Nothing was sent to its sink.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// As many requests wait as may wait.
    #[error("{waiting} requests are waiting already")]
    Full {
        /// Requests waiting for a slot.
        waiting: usize,
    },
    /// The addressed version finishes what it runs and admits nothing new.
    #[error("{0} is draining")]
    Draining(PolicyVersion),
    /// The addressed version is not in memory.
    #[error("{0} is not in memory")]
    UnknownVersion(PolicyVersion),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The request itself is wrong.
    #[error(transparent)]
    Invalid(#[from] OutOfRange),
}

/// What a request sends to its sink, in order: per choice tokens and then one `Finished`, or one `Failed` for the request.
#[derive(Clone, Debug)]
pub enum Event {
    /// A token was drawn.
    Token {
        /// Which choice.
        index: u32,
        /// The token and what is known about the draw.
        token: SampledToken,
        /// Text that is now certain: whole UTF-8, nothing that may turn out to begin a stop text. Often empty.
        text: String,
        /// The most probable tokens at temperature 1, best first; as many as the request asked for.
        top: Vec<(TokenId, LogProb)>,
    },
    /// A choice is complete.
    Finished(Box<Finished>),
    /// The forward pass failed; no further event of this request follows.
    Failed {
        /// Why, for the log and not for the client.
        reason: String,
    },
}

/// The end of one choice.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Which choice.
    pub index: u32,
    /// The whole exchange. Its response is empty only when it was cancelled before the first token.
    pub rollout: Rollout,
    /// Text that was held back and turned out not to begin a stop text.
    pub text_tail: String,
    /// Prompt tokens that were not computed again, from an earlier request or an earlier choice.
    pub cached_tokens: u32,
    /// Where the time went.
    pub timings: Timings,
}

/// Where the time of one choice went; monotonic clock, taken on the owner thread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// From submission to a slot.
    pub queued: Duration,
    /// From the slot to the first token.
    pub prefill: Duration,
    /// From submission to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}
