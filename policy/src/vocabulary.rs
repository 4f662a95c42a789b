//! Text to tokens and back, as the served model does it.
//!
//! The vocabulary comes from the GGUF file through llama.cpp's own tokenizer, so serving and llama.cpp never disagree about
//! a token. One rule is kept here for everybody: text that came from outside is *plain*. `<|im_end|>` in a user's message is
//! nine ordinary characters; only the model's chat template (and, by its contract, `/get_reward`) makes control tokens.

mod pieces;
mod splitter;

use std::path::Path;

use llama_cpp_2::{
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};

pub use self::splitter::TokenizeError;
use self::{pieces::Pieces, splitter::Splitter};
use crate::{
    chat_template::{ChatTemplate, Message, Segment},
    engine::{EngineError, backend::backend, gguf},
    token::TokenId,
};

/// The tokenizer of one model. Cheap to share behind an `Arc`.
pub struct Vocabulary {
    /// A model without weights.
    model: LlamaModel,
    splitter: Splitter,
    pieces: Pieces,
    ends: Vec<bool>,
    /// Control tokens by their text, longest first, so that a template's text is cut as llama.cpp would cut it.
    controls: Vec<(String, TokenId)>,
    template: Option<ChatTemplate>,
    bos: Option<TokenId>,
    end: TokenId,
    digest: String,
}

impl Vocabulary {
    /// Reads the vocabulary of a GGUF file; no weights are loaded.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the file is damaged, has no vocabulary, or has no end token.
    pub fn load(path: &Path) -> Result<Vocabulary, EngineError> {
        let refused = |reason: String| EngineError::Load { path: path.to_owned(), reason };
        let digest = gguf::inspect(path)?.tokenizer;
        let params = LlamaModelParams::default().with_vocab_only(true);
        let model = LlamaModel::load_from_file(backend()?, path, &params)
            .map_err(|e| refused(format!("llama.cpp cannot read its vocabulary: {e}")))?;
        let n_vocab = usize::try_from(model.n_vocab()).unwrap_or(0);
        if n_vocab == 0 {
            return Err(refused("it has no vocabulary".into()));
        }
        let valid = |token: LlamaToken| usize::try_from(token.0).is_ok_and(|id| id < n_vocab).then(|| id_of(token));
        let vocab = model.vocab();
        let end =
            valid(vocab.eos()).or_else(|| valid(vocab.eot())).ok_or_else(|| refused("it has no end token".into()))?;
        let bos = valid(vocab.bos());
        let ends: Vec<bool> = vocab.tokens().map(|token| vocab.is_eog(token)).collect();
        let pieces = Pieces::of(&model);
        let template = model.chat_template(None).ok().and_then(|template| template.to_string().ok());
        let text_of =
            |id: Option<TokenId>| id.map(|id| String::from_utf8_lossy(pieces.get(id)).into_owned()).unwrap_or_default();
        let template = template.map(|source| ChatTemplate::new(source, text_of(bos), text_of(Some(end))));
        let controls = pieces.controls(&model);
        Ok(Vocabulary {
            bos: bos.filter(|_| model.vocab().should_add_bos()),
            splitter: Splitter::of(&model),
            model,
            pieces,
            ends,
            controls,
            template,
            end,
            digest,
        })
    }

    /// Tokens of plain text: nothing in it becomes a control token, nothing is added.
    ///
    /// # Errors
    /// When the text is longer than this model's tokenizer carries, or its thread did not start.
    pub fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, TokenizeError> {
        self.tokenize_with(text, false)
    }

    /// Tokens of text whose control tokens are parsed; nothing is added. For callers who own the text.
    ///
    /// # Errors
    /// As [`Vocabulary::tokenize`].
    pub fn tokenize_special(&self, text: &str) -> Result<Vec<TokenId>, TokenizeError> {
        self.tokenize_with(text, true)
    }

    /// A prompt for completion: plain text after the beginning token, if the model wants one.
    ///
    /// # Errors
    /// As [`Vocabulary::tokenize`].
    pub fn prompt(&self, text: &str) -> Result<Vec<TokenId>, TokenizeError> {
        let mut tokens: Vec<TokenId> = self.bos.into_iter().collect();
        tokens.append(&mut self.tokenize(text)?);
        Ok(tokens)
    }

    /// A conversation through the model's own template, ready for the assistant's answer.
    ///
    /// # Errors
    /// [`EngineError::Template`] when the model has none, it refuses the conversation, or a role is not a plain word;
    /// [`EngineError::Tokenize`] as [`Vocabulary::tokenize`].
    pub fn chat(&self, messages: &[Message]) -> Result<Vec<TokenId>, EngineError> {
        let template = self.template.as_ref().ok_or_else(|| EngineError::Template("the model has none".into()))?;
        let segments = template.render(messages)?;
        let mut tokens = Vec::new();
        let mut plain = String::new();
        for segment in segments {
            match segment {
                Segment::Content(text) => plain.push_str(&text),
                Segment::Template(text) => self.cut_controls(&text, &mut plain, &mut tokens)?,
            }
        }
        tokens.append(&mut self.tokenize(&plain)?);
        // Templates that write the beginning token themselves are common; two of them are a known way to spoil a model.
        if let Some(bos) = self.bos
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// A conversation that ends with the assistant's answer, as the policy would have sampled it: the prompt of
    /// [`Vocabulary::chat`], the answer, the end token. For scoring.
    ///
    /// # Errors
    /// As [`Vocabulary::chat`], and when the last message is not the assistant's.
    pub fn chat_with_answer(&self, messages: &[Message]) -> Result<Vec<TokenId>, EngineError> {
        let Some((answer, prompt)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
            return Err(EngineError::Template("the last message must be the assistant's".into()));
        };
        let mut tokens = self.chat(prompt)?;
        tokens.append(&mut self.tokenize(&answer.content)?);
        tokens.push(self.end);
        Ok(tokens)
    }

    /// Whether the model brings a chat template.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The source of the model's chat template, Jinja, if it brings one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_ref().map(ChatTemplate::source)
    }

    /// The text of tokens, control tokens written out when `specials`; broken UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn detokenize(&self, ids: &[TokenId], specials: bool) -> String {
        let piece = |&id: &TokenId| {
            if specials { self.piece(id) } else { self.text_piece(id) }
        };
        let bytes: Vec<u8> = ids.iter().flat_map(piece).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of a token, a control token's name included; empty for an unknown id.
    #[must_use]
    pub fn piece(&self, id: TokenId) -> &[u8] {
        self.pieces.get(id)
    }

    /// The bytes that a token adds to a text; none for a control token.
    #[must_use]
    pub fn text_piece(&self, id: TokenId) -> &[u8] {
        if self.pieces.hidden.get(id.0 as usize).copied().unwrap_or(true) { &[] } else { self.piece(id) }
    }

    /// Whether drawing this token ends a response.
    #[must_use]
    pub fn is_end(&self, id: TokenId) -> bool {
        self.ends.get(id.0 as usize).copied().unwrap_or(false)
    }

    /// All tokens for which [`Vocabulary::is_end`] holds.
    pub fn end_tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        (0..).map(TokenId).zip(&self.ends).filter_map(|(id, &is_end)| is_end.then_some(id))
    }

    /// The model's end token.
    #[must_use]
    pub fn end_token(&self) -> TokenId {
        self.end
    }

    /// The beginning token, if the model wants one before every prompt.
    #[must_use]
    pub fn begin_token(&self) -> Option<TokenId> {
        self.bos
    }

    /// Number of tokens.
    #[must_use]
    pub fn size(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the longest token, at least 1: so many bytes of text are one token or more.
    #[must_use]
    pub fn longest_piece(&self) -> usize {
        self.pieces.longest.max(1)
    }

    /// Digest of everything that tokenising depends on: tokens, types, merges, special ids, template. Hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Tokens of context that the model was trained for, if the file says.
    #[must_use]
    pub fn trained_context(&self) -> Option<u32> {
        let architecture = self.model.meta_val_str("general.architecture").ok()?;
        self.model.meta_val_str(&format!("{architecture}.context_length")).ok()?.parse().ok()
    }

    fn tokenize_with(&self, text: &str, parse_special: bool) -> Result<Vec<TokenId>, TokenizeError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = self.splitter.run(text, || self.model.vocab().tokenize(text.as_bytes(), false, parse_special))?;
        Ok(tokens.into_iter().map(id_of).collect())
    }

    /// Walks template text: what is not a control token joins the plain text around it, because tokens may merge across
    /// the seam between template and content exactly as they did in training.
    fn cut_controls(&self, text: &str, plain: &mut String, tokens: &mut Vec<TokenId>) -> Result<(), TokenizeError> {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some((name, id)) = self.controls.iter().find(|(name, _)| rest.starts_with(name.as_str())) {
                tokens.append(&mut self.tokenize(plain)?);
                plain.clear();
                tokens.push(*id);
                rest = &rest[name.len()..];
            } else {
                plain.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        Ok(())
    }
}

fn id_of(token: LlamaToken) -> TokenId {
    TokenId(u32::try_from(token.0).expect("llama.cpp names its tokens by non-negative ids"))
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("size", &self.size()).field("digest", &self.digest).finish_non_exhaustive()
    }
}
