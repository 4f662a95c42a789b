//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`: what lm-eval's remote tokenizer and vLLM's clients send.

mod told;

use policy::{TokenId, chat_template::Message};
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use self::told::{Told, detokenized, is_long};
use super::{
    chat::messages,
    fields::{FieldError, Fields},
    sampling::{NAME_CHARS_MAX, token_id},
};

/// Token ids in one request at most: an id of two bytes may spell a hundred, and the answer must stay bounded too.
pub(crate) const TOKENS_MAX: usize = 1 << 17;

/// A request for tokens; how long its text may be is `daemon.body_bytes_max`'s business.
pub(crate) struct TokenizeRequest {
    /// Whose vocabulary; all versions share one.
    pub(crate) model: Option<String>,
    /// What is to be cut.
    pub(crate) input: TokenizeInput,
    /// The text of every token beside its id, in a list of its own (vLLM).
    pub(crate) return_token_strs: bool,
    /// The same within the list of ids (llama-server).
    pub(crate) with_pieces: bool,
}

/// What is to be cut into tokens.
pub(crate) enum TokenizeInput {
    /// A text.
    Text {
        /// The text.
        prompt: String,
        /// Begin with the token that begins a prompt, where the model wants one.
        add_special_tokens: bool,
        /// What spells a control token is one.
        parse_special: bool,
    },
    /// A conversation through the model's template, ready for the answer; contents are plain text.
    Chat(Vec<Message>),
}

impl TokenizeRequest {
    /// Reads a body. llama-server calls the text `content` and the switch `add_special`, which is off unless it is sent; vLLM
    /// calls them `prompt` and `add_special_tokens`, which is on.
    ///
    /// Control tokens that a `prompt` spells are parsed unless `parse_special` is false, as in both peers: lm-eval finds
    /// the end token's id by tokenising its text. Generation never does that to a text that it is given.
    pub(crate) fn parse(body: &[u8]) -> Result<TokenizeRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        f.refuse(&["chat_template", "chat_template_kwargs", "tools", "continue_final_message"])?;
        if f.boolean("add_generation_prompt")? == Some(false) {
            return Err(f.error("add_generation_prompt", "must be true in this version of honed"));
        }
        let model = f.text("model", NAME_CHARS_MAX)?;
        let return_token_strs = f.boolean("return_token_strs")?.unwrap_or(false);
        let with_pieces = f.boolean("with_pieces")?.unwrap_or(false);
        let input = input(&mut f)?;
        Ok(TokenizeRequest { model, input, return_token_strs, with_pieces })
    }
}

fn input(f: &mut Fields) -> Result<TokenizeInput, FieldError> {
    let add_special_tokens = f.boolean("add_special_tokens")?.or(f.boolean("add_special")?);
    let parse_special = f.boolean("parse_special")?.unwrap_or(true);
    f.at_most_one(&["prompt", "content", "messages"])?;
    // Each peer's clients expect its default.
    let add_special_tokens = add_special_tokens.unwrap_or(!f.has("content"));
    let prompt = f.text("prompt", usize::MAX)?;
    match prompt.or(f.text("content", usize::MAX)?) {
        Some(prompt) => Ok(TokenizeInput::Text { prompt, add_special_tokens, parse_special }),
        None if f.has("messages") => messages(f, "messages").map(TokenizeInput::Chat),
        None => Err(f.error("prompt", "or `messages` is required")),
    }
}

/// Tokens and what they mean for the context window.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizeResponse {
    /// How many tokens.
    pub(crate) count: usize,
    /// Tokens of prompt and response together that the model takes.
    pub(crate) max_model_len: usize,
    /// Their ids, with their pieces when asked for.
    pub(crate) tokens: Vec<TokenEntry>,
    /// Their texts, when asked for; what is no whole character shows as U+FFFD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_strs: Option<Vec<String>>,
}

/// A token.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TokenEntry {
    /// Its id.
    Id(u32),
    /// As llama-server shows it when asked for pieces.
    WithPiece {
        /// Its id.
        id: u32,
        /// Its text.
        piece: Piece,
    },
}

/// The text of a token.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Piece {
    /// Whole characters.
    Text(String),
    /// Bytes that are none by themselves.
    Bytes(Vec<u8>),
}

impl Piece {
    /// Of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Piece {
        match std::str::from_utf8(bytes) {
            Ok(text) => Piece::Text(text.to_owned()),
            Err(_) => Piece::Bytes(bytes.to_vec()),
        }
    }
}

/// Ids that are to become text.
pub(crate) struct DetokenizeRequest {
    /// Whose vocabulary; all versions share one.
    pub(crate) model: Option<String>,
    /// Whether the vocabulary has them is for the vocabulary to say.
    pub(crate) tokens: Vec<TokenId>,
}

impl DetokenizeRequest {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8]) -> Result<DetokenizeRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        let model = f.text("model", NAME_CHARS_MAX)?;
        let list = f.list("tokens", TOKENS_MAX)?.ok_or_else(|| f.error("tokens", "is required"))?;
        let tokens = list.iter().map(token_id).collect::<Option<_>>();
        let tokens = tokens.ok_or_else(|| f.error("tokens", "must hold token ids only"))?;
        Ok(DetokenizeRequest { model, tokens })
    }
}

/// vLLM calls the text `prompt`, llama-server `content`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DetokenizeResponse {
    /// The text, special tokens spelled out; broken UTF-8 becomes U+FFFD.
    pub(crate) prompt: String,
    /// The same.
    pub(crate) content: String,
}

/// What a remote tokenizer needs to know. lm-eval reads the special tokens and renders the template by itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizerInfo {
    /// Number of tokens.
    pub(crate) vocab_size: usize,
    /// Tokens of prompt and response together that the model takes.
    pub(crate) max_model_len: usize,
    /// Text of the token that begins a prompt; null where the model wants none.
    pub(crate) bos_token: Option<String>,
    /// Its id.
    pub(crate) bos_token_id: Option<u32>,
    /// Text of the end token.
    pub(crate) eos_token: String,
    /// Its id.
    pub(crate) eos_token_id: u32,
    /// Always null: sequences are packed, never padded.
    pub(crate) pad_token: Option<String>,
    /// The model's chat template, Jinja; null where it brings none.
    pub(crate) chat_template: Option<String>,
    /// SHA-256 of everything that tokenising depends on.
    pub(crate) digest: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_fields_are_named() {
        let cases = [
            ("prompt", r#"{}"#),
            ("prompt", r#"{"prompt":5}"#),
            ("prompt", r#"{"prompt":["a"]}"#),
            ("messages", r#"{"messages":[]}"#),
            ("messages", r#"{"prompt":"a","messages":[]}"#),
            ("content", r#"{"prompt":"a","content":"a"}"#),
            ("messages[0].role", r#"{"messages":[{"role":"boss","content":"a"}]}"#),
            ("add_special_tokens", r#"{"prompt":"a","add_special_tokens":1}"#),
            ("return_token_strs", r#"{"prompt":"a","return_token_strs":"yes"}"#),
            ("add_generation_prompt", r#"{"prompt":"a","add_generation_prompt":false}"#),
            ("with_pieces", r#"{"content":"a","with_pieces":"yes"}"#),
            ("chat_template", r#"{"messages":[{"role":"user","content":"a"}],"chat_template":"x"}"#),
            ("model", r#"{"prompt":"a","model":5}"#),
        ];
        for (param, json) in cases {
            let error = TokenizeRequest::parse(json.as_bytes()).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
        for json in [r#"{}"#, r#"{"tokens":"1"}"#, r#"{"tokens":[-1]}"#, r#"{"tokens":[1.5]}"#, r#"{"tokens":[[1]]}"#] {
            let error = DetokenizeRequest::parse(json.as_bytes()).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some("tokens"), "{json}");
        }
    }

    #[test]
    fn both_peers_names_are_read() {
        for json in [r#"{"content":"a","add_special":false}"#, r#"{"prompt":"a","add_special_tokens":false}"#] {
            let request = TokenizeRequest::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
            let is_bare = matches!(
                &request.input,
                TokenizeInput::Text { prompt, add_special_tokens: false, parse_special: true } if prompt == "a"
            );
            assert!(is_bare && !request.return_token_strs, "{json}");
        }
    }

    #[test]
    fn each_peers_default_is_that_of_its_name() {
        for (json, expected) in [(r#"{"content":"a"}"#, false), (r#"{"prompt":"a"}"#, true)] {
            let request = TokenizeRequest::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
            let TokenizeInput::Text { add_special_tokens, .. } = request.input else { panic!("{json} is a text") };
            assert_eq!(add_special_tokens, expected, "{json}");
        }
    }
}
