//! What goes into the engine and what comes out of it: plain data, so that the daemon never sees llama.cpp.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    engine::{constraint::Constraint, tenant::Tenant},
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
    /// What the responses must look like.
    pub constraint: Option<Constraint>,
    /// Alternatives to report with each token. `0..=20`
    pub top_logprobs: u32,
    /// Score the prompt too, with so many alternatives for each of its tokens, `0..=20`. `None` leaves it unscored, and only
    /// then may its beginning come from the cache: cached tokens have no logits.
    pub prompt_logprobs: Option<u32>,
    /// Keeps the computed prompt to requests with the same salt; `None` shares it with all that have none.
    pub cache_salt: Option<Arc<str>>,
    /// Whose share of the engine it takes.
    pub tenant: Tenant,
    /// Whom the client named as its user.
    pub user: Option<String>,
    /// Ends the request early.
    pub cancel: CancelFlag,
    /// Receives the events.
    pub sink: Sink,
}

impl Default for GenerateRequest {
    /// One choice of an empty prompt, sent nowhere: for callers that name what they change.
    fn default() -> Self {
        GenerateRequest {
            id: String::new(),
            prompt: Vec::new(),
            n: 1,
            sampling: SamplingParams::default(),
            constraint: None,
            top_logprobs: 0,
            prompt_logprobs: None,
            cache_salt: None,
            tenant: Tenant::ANYBODY,
            user: None,
            cancel: CancelFlag::default(),
            sink: Box::new(|_| ()),
        }
    }
}

impl GenerateRequest {
    /// Whether the prompt is scored and nothing drawn (`max_tokens` is 0).
    pub(super) fn is_prompt_only(&self) -> bool {
        self.sampling.max_tokens == 0
    }

    /// Judges everything that would reach C++: ranges, token ids, and the prompt's length against the context window.
    ///
    /// # Errors
    /// The first field that is out of range, with its rule.
    pub fn check(&self, n_vocab: usize, context_tokens: u32) -> Result<(), OutOfRange> {
        within("n", self.n, 1..=CHOICES_MAX)?;
        within("top_logprobs", self.top_logprobs, 0..=TOP_LOG_PROBS_MAX)?;
        within("prompt_logprobs", self.prompt_logprobs.unwrap_or(0), 0..=TOP_LOG_PROBS_MAX)?;
        if self.is_prompt_only() && self.prompt_logprobs.is_none() {
            let rule = "must be at least 1 unless the prompt is scored, got 0".into();
            return Err(OutOfRange { field: "max_tokens", rule });
        }
        if self.prompt.is_empty() {
            return Err(OutOfRange { field: "prompt", rule: "must not be empty".into() });
        }
        // One position must be left for the first token of the response, if there is to be one.
        let longest = context_tokens as usize - usize::from(!self.is_prompt_only());
        if self.prompt.len() > longest {
            let rule = format!(
                "must have at most {longest} tokens in a context window of {context_tokens}, got {}",
                self.prompt.len()
            );
            return Err(OutOfRange { field: "prompt", rule });
        }
        self.prompt.iter().try_for_each(|&id| check_token("prompt", id, n_vocab))?;
        self.check_constraint()?;
        self.sampling.check(n_vocab)
    }
}

impl GenerateRequest {
    /// Where a grammar is complete, nothing but an end token is left to draw.
    fn check_constraint(&self) -> Result<(), OutOfRange> {
        let rule = || "must not be given together with a grammar, which says itself when a response may end".into();
        match &self.constraint {
            Some(_) if self.sampling.ignore_eos => Err(OutOfRange { field: "ignore_eos", rule: rule() }),
            Some(_) if self.sampling.min_tokens > 0 => Err(OutOfRange { field: "min_tokens", rule: rule() }),
            _ => Ok(()),
        }
    }
}

/// Why a request was not admitted. Nothing was sent to its sink.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// As many requests wait as may wait, or they ask for as many sequences or tokens.
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

/// One token of a scored prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// The token.
    pub id: TokenId,
    /// Its log-probability after the tokens before it, at temperature 1 over the full vocabulary.
    pub log_prob: LogProb,
    /// Its place among all tokens, 1 for the most probable; tokens of equal probability share the best place.
    pub rank: u32,
    /// The most probable tokens in its place, best first; as many as the request asked for.
    pub top: Vec<(TokenId, LogProb)>,
}

/// What a request sends to its sink, in order: its prompt if it is scored, per choice tokens and then one `Finished`; or at
/// any time one `Failed` for the request.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt was scored. Once for all choices, before the first token of any.
    Prompt {
        /// The choice that computed the prompt: the first.
        index: u32,
        /// The token that the prompt begins with: nothing predicts it.
        first: TokenId,
        /// All tokens after it.
        tokens: Vec<ScoredToken>,
    },
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
        /// When its choice got a slot, and when it was drawn: the owner thread's clock, however late the event is read.
        began: Instant,
        /// See `began`.
        at: Instant,
    },
    /// A choice is complete.
    Finished(Box<Finished>),
    /// The request failed; no further event of it follows.
    Failed(Failure),
}

/// Why a request failed midway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its grammar cannot be followed any further. A sentence for the client that can follow the field's name.
    #[error("{0}")]
    Grammar(String),
    /// The forward pass failed. For the log and not for the client.
    #[error("{0}")]
    Engine(String),
}

/// The end of one choice.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Which choice.
    pub index: u32,
    /// The whole exchange. Its response is empty only when it was cancelled before the first token, or none was asked for.
    pub rollout: Rollout,
    /// Text that was held back and turned out not to begin a stop text.
    pub text_tail: String,
    /// Prompt tokens that were not computed again, from an earlier request or an earlier choice.
    pub cached_tokens: u32,
    /// When it ended.
    pub at: Instant,
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
