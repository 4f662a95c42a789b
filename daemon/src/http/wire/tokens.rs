//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`: what lm-eval's remote tokenizer and vLLM's clients send.

use policy::{TokenId, chat_template::Message};
use serde::Serialize;

use super::{
    chat::messages,
    fields::{FieldError, Fields},
    sampling::token_id,
};

/// Token ids in one request at most.
const TOKENS_MAX: usize = 1 << 20;

/// What is to be cut into tokens.
pub(crate) enum TokenizeRequest {
    /// A text, with the token that begins a prompt or without.
    Text {
        /// The text.
        prompt: String,
        /// As `/v1/completions` would see it.
        add_special_tokens: bool,
    },
    /// A conversation through the model's template.
    Chat(Vec<Message>),
}

impl TokenizeRequest {
    /// Reads a body. llama-server calls the text `content`, vLLM `prompt`.
    pub(crate) fn parse(body: &[u8]) -> Result<TokenizeRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        let add_special_tokens = f.boolean("add_special_tokens")?.unwrap_or(true);
        let prompt = f.text("prompt", usize::MAX)?;
        match prompt.or(f.text("content", usize::MAX)?) {
            Some(prompt) => Ok(TokenizeRequest::Text { prompt, add_special_tokens }),
            None => messages(&mut f, "messages").map(TokenizeRequest::Chat).map_err(|e| {
                if e.param.as_deref() == Some("messages") { f.error("prompt", "or `messages` is required") } else { e }
            }),
        }
    }
}

/// Tokens and what they mean for the context window.
#[derive(Debug, Serialize)]
pub(crate) struct TokenizeResponse {
    pub(crate) count: usize,
    pub(crate) max_model_len: usize,
    pub(crate) tokens: Vec<u32>,
}

/// Reads the ids of `/detokenize`.
pub(crate) fn detokenize(body: &[u8]) -> Result<Vec<TokenId>, FieldError> {
    let mut f = Fields::parse(body)?;
    let list = f.list("tokens", TOKENS_MAX)?.ok_or_else(|| f.error("tokens", "is required"))?;
    list.iter().map(token_id).collect::<Option<_>>().ok_or_else(|| f.error("tokens", "must hold token ids only"))
}

/// vLLM calls the text `prompt`, llama-server `content`.
#[derive(Debug, Serialize)]
pub(crate) struct DetokenizeResponse {
    pub(crate) prompt: String,
    pub(crate) content: String,
}

/// What a remote tokenizer needs to know.
#[derive(Debug, Serialize)]
pub(crate) struct TokenizerInfo {
    pub(crate) vocab_size: usize,
    pub(crate) max_model_len: usize,
    pub(crate) eos_token: String,
    pub(crate) eos_token_id: u32,
    pub(crate) digest: String,
}
