//! Checks and names that both generation routes need.

use std::time::{SystemTime, UNIX_EPOCH};

use policy::{PolicyVersion, TokenId, engine::EngineError, vocabulary::TokenizeError};
use rand::RngCore;

use super::{
    context::Services,
    error::ApiError,
    models,
    wire::{
        error::{CONTEXT_LENGTH_EXCEEDED, FIELDS_DISAGREE, INVALID_MESSAGES, UNKNOWN_TOKEN},
        sampling::Generation,
    },
};

/// Choices over all prompts of one request at most: each becomes a sequence of its own in the engine.
const CHOICES_MAX: usize = 2048;

/// What every object of one answer carries.
pub(crate) struct Stamp {
    /// Names the exchange, also for feedback.
    pub(crate) id: String,
    /// Seconds since the Unix epoch.
    pub(crate) created: u64,
    /// As the client named it.
    pub(crate) model: String,
}

impl Stamp {
    /// A fresh name of 64 random bits.
    pub(crate) fn new(prefix: &str, model: Option<&str>, served_name: &str) -> Stamp {
        let model = model.filter(|model| !model.is_empty()).unwrap_or(served_name);
        Stamp {
            id: format!("{prefix}-{:016x}", rand::rng().next_u64()),
            created: now_ms() / 1000,
            model: model.to_owned(),
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Refuses what can never be answered, before the engine sees it.
///
/// `field` is what the client calls its prompts.
pub(crate) fn check(
    prompts: &[Vec<TokenId>],
    field: &'static str,
    asked: &Generation,
    services: &Services,
) -> Result<(), ApiError> {
    let n = asked.n_drawn as usize;
    if prompts.len() * n > CHOICES_MAX {
        let message = format!("prompts times choices must be at most {CHOICES_MAX}, not {}", prompts.len() * n);
        return Err(ApiError::coded(FIELDS_DISAGREE, asked.choices_name.unwrap_or(field), message));
    }
    let vocabulary = services.engine.vocabulary();
    let window = services.engine.context_tokens();
    for prompt in prompts {
        if let Some(id) = prompt.iter().find(|id| id.0 as usize >= vocabulary.size()) {
            let message =
                format!("`{field}` holds token {}, but the vocabulary has {} tokens", id.0, vocabulary.size());
            return Err(ApiError::coded(UNKNOWN_TOKEN, field, message));
        }
        fits(prompt.len(), field, asked, window as usize)?;
    }
    Ok(())
}

/// As OpenAI and vLLM: what is asked for must fit the window; nothing is cut silently.
fn fits(prompt: usize, field: &'static str, asked: &Generation, window: usize) -> Result<(), ApiError> {
    let max_tokens = asked.max_tokens.unwrap_or(1) as usize;
    if prompt.saturating_add(max_tokens) <= window {
        return Ok(());
    }
    let name = asked.max_tokens_name;
    match prompt < window {
        true => Err(too_long(name, window, &format!("the prompt has {prompt} tokens and `{name}` is {max_tokens}"))),
        false => Err(too_long(field, window, &format!("the prompt has {prompt} tokens"))),
    }
}

fn too_long(param: &str, window: usize, what: &str) -> ApiError {
    let message = format!("the context window holds {window} tokens of prompt and response together; {what}");
    ApiError::coded(CONTEXT_LENGTH_EXCEEDED, param, message)
}

/// What the model's own chat template says of a conversation, or its tokenizer.
pub(crate) fn refused_by_template(error: EngineError) -> ApiError {
    match error {
        EngineError::Tokenize(error) => untokenized("messages", &error),
        error => {
            ApiError::coded(INVALID_MESSAGES, "messages", format!("the model's chat template refused them: {error}"))
        }
    }
}

/// A text that the model's tokenizer does not take.
pub(crate) fn untokenized(param: &str, error: &TokenizeError) -> ApiError {
    match error {
        TokenizeError::TooLong { .. } => ApiError::coded(CONTEXT_LENGTH_EXCEEDED, param, format!("`{param}` {error}")),
        TokenizeError::Thread(_) => ApiError::internal("a tokenizer", error),
    }
}

/// Refuses texts that must be too long before time is spent on their tokens: no token is longer than the longest.
pub(crate) fn check_bytes<'a>(
    mut texts: impl Iterator<Item = &'a str>,
    field: &'static str,
    services: &Services,
) -> Result<(), ApiError> {
    let (longest, window) = (services.engine.vocabulary().longest_piece(), services.engine.context_tokens() as usize);
    match texts.find(|text| text.len() / longest > window) {
        None => Ok(()),
        Some(text) => {
            let least = text.len() / longest;
            Err(too_long(
                field,
                window,
                &format!("the prompt has {} bytes, which are at least {least} tokens", text.len()),
            ))
        }
    }
}

/// A version that is in memory and answers.
pub(crate) fn resident(services: &Services, version: PolicyVersion) -> Result<PolicyVersion, ApiError> {
    match services.engine.is_ready(version) {
        true => Ok(version),
        false => Err(models::absent(services, version)),
    }
}

/// Prompt ids for the wire, when asked for.
pub(crate) fn ids(prompts: &[Vec<TokenId>], wanted: bool) -> Option<Vec<Vec<u32>>> {
    wanted.then(|| prompts.iter().map(|prompt| prompt.iter().map(|token| token.0).collect()).collect())
}
