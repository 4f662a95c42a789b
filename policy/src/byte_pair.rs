//! A byte-level BPE vocabulary, learnt from text and written into GGUF metadata.
//!
//! The `tokenizers` crate learns the merges; the split before them is GPT-2's, because llama.cpp knows the same split under
//! the name "gpt-2" and then cuts any text into the same tokens (a test holds the two together). All 256 bytes are in the
//! vocabulary, so every text has tokens. Special tokens are never produced from text: a user who types one gets its letters.

mod bytes;

use std::collections::BTreeMap;

use candle_core::quantized::gguf_file::Value;
use tokenizers::{
    AddedToken, Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

use crate::{
    checkpoint::Metadata,
    model_error::{ModelError, Result},
    token::TokenId,
};

/// Ends an answer and separates documents.
pub const END: TokenId = TokenId(0);
/// Fills rows where a format wants a rectangle; never the end token, which must keep its gradient.
pub const PAD: TokenId = TokenId(1);
/// Starts a user's turn.
pub const USER: TokenId = TokenId(2);
/// Starts the assistant's turn.
pub const ASSISTANT: TokenId = TokenId(3);
/// Starts the system's turn.
pub const SYSTEM: TokenId = TokenId(4);

/// The special tokens by id.
pub const SPECIAL_TOKENS: [&str; 5] = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"];

/// The chat format of the special tokens, as models carry it.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'assistant' %}<|assistant|>{{ message.content }}<|endoftext|>{% elif message.role == 'system' %}<|system|>{{ message.content }}{% else %}<|user|>{{ message.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// llama.cpp's token types.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// A learnt vocabulary: special tokens, 256 bytes, then one token a merge.
pub struct Bpe {
    model: BPE,
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
    n_specials: usize,
}

impl Bpe {
    /// Learns `vocab_size` tokens from texts, special tokens and bytes included. The same texts give the same vocabulary.
    ///
    /// # Errors
    /// When `vocab_size` has no room for special tokens and bytes.
    pub fn learn<T: AsRef<str> + Send>(
        texts: impl Iterator<Item = T> + Send,
        vocab_size: usize,
        specials: &[&str],
    ) -> Result<Bpe> {
        if vocab_size < specials.len() + 256 {
            let least = specials.len() + 256;
            return Err(ModelError::Vocabulary(format!("expected at least {least} tokens, got {vocab_size}")));
        }
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            .min_frequency(2)
            .special_tokens(specials.iter().map(|s| AddedToken::from(*s, true)).collect())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut model = BPE::default();
        trainer.feed(texts, words).and_then(|()| trainer.train(&mut model)).map_err(vocabulary)?;
        let (tokens, merges) = (tokens_of(&model)?, merges_of(&model)?);
        Self::assemble(tokens, merges, specials.len())
    }

    /// Reads a vocabulary back from a model's metadata.
    ///
    /// # Errors
    /// When the file's tokenizer is not a GPT-2 style byte-level BPE.
    pub fn from_metadata(metadata: &Metadata) -> Result<Bpe> {
        for (key, expected) in [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "gpt-2")] {
            if metadata.string(key)? != expected {
                return Err(ModelError::Vocabulary(format!("{key} is {}, expected {expected}", metadata.string(key)?)));
            }
        }
        let tokens = strings(metadata, "tokenizer.ggml.tokens")?;
        let n_specials = match metadata.get("tokenizer.ggml.token_type") {
            Some(Value::Array(types)) => types.iter().take_while(|t| matches!(t, Value::I32(CONTROL))).count(),
            _ => 0,
        };
        let merges = strings(metadata, "tokenizer.ggml.merges")?
            .into_iter()
            .map(|merge| match merge.split_once(' ') {
                Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
                None => Err(ModelError::Vocabulary(format!("merge {merge:?} has no two parts"))),
            })
            .collect::<Result<_>>()?;
        Self::assemble(tokens, merges, n_specials)
    }

    fn assemble(tokens: Vec<String>, merges: Vec<(String, String)>, n_specials: usize) -> Result<Bpe> {
        let vocab = tokens.iter().cloned().zip(0u32..).collect();
        let model = BPE::builder().vocab_and_merges::<tokenizers::models::bpe::Vocab>(vocab, merges.clone()).build();
        Ok(Bpe { model: model.map_err(vocabulary)?, tokens, merges, n_specials })
    }

    /// Cuts a text into tokens; special tokens in it are text like any other.
    ///
    /// # Errors
    /// When the `tokenizers` crate fails, which a vocabulary with all bytes gives no reason for.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>> {
        let mut out = Vec::new();
        for word in words(text).map_err(vocabulary)? {
            out.extend(self.model.tokenize(&word).map_err(vocabulary)?.into_iter().map(|t| TokenId(t.id)));
        }
        Ok(out)
    }

    /// The text of tokens; bytes that are no UTF-8 become replacement characters. Special tokens are left out.
    #[must_use]
    pub fn decode(&self, ids: &[TokenId]) -> String {
        let known = ids.iter().map(|id| id.0 as usize).filter(|&id| id >= self.n_specials && id < self.tokens.len());
        let bytes: Vec<u8> = known.flat_map(|id| self.tokens[id].chars().filter_map(bytes::byte_of)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Number of tokens.
    #[must_use]
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// What llama.cpp and [`Bpe::from_metadata`] need, with a chat template: the first special token ends text and
    /// answers, the second pads; no token is put in front of a text.
    #[must_use]
    pub fn metadata(&self, chat_template: &str) -> Metadata {
        let text = |s: &str| Value::String(s.to_owned());
        let array = |all: Vec<Value>| Value::Array(all);
        let types = (0..self.size()).map(|i| Value::I32(if i < self.n_specials { CONTROL } else { NORMAL }));
        let mut m = Metadata::default();
        m.set("tokenizer.ggml.model", text("gpt2"));
        m.set("tokenizer.ggml.pre", text("gpt-2"));
        m.set("tokenizer.ggml.tokens", array(self.tokens.iter().map(|t| text(t)).collect()));
        m.set("tokenizer.ggml.token_type", array(types.collect()));
        m.set("tokenizer.ggml.merges", array(self.merges.iter().map(|(a, b)| text(&format!("{a} {b}"))).collect()));
        // llama.cpp's fallback for BPE is token 11 for both, so the beginning must be named even if it is never added.
        m.set("tokenizer.ggml.bos_token_id", Value::U32(END.0));
        m.set("tokenizer.ggml.eos_token_id", Value::U32(END.0));
        m.set("tokenizer.ggml.padding_token_id", Value::U32(PAD.0));
        m.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
        m.set("tokenizer.ggml.add_eos_token", Value::Bool(false));
        m.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
        m.set("tokenizer.chat_template", text(chat_template));
        m
    }
}

/// GPT-2's split into words, each spelled in byte characters.
fn words(text: &str) -> tokenizers::Result<Vec<String>> {
    let mut pre_tokenized = PreTokenizedString::from(text);
    ByteLevel::new(false, false, true).pre_tokenize(&mut pre_tokenized)?;
    let splits = pre_tokenized.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(splits.into_iter().map(|(word, _, _)| word.to_owned()).collect())
}

fn tokens_of(model: &BPE) -> Result<Vec<String>> {
    let by_id: BTreeMap<u32, String> = model.get_vocab().into_iter().map(|(token, id)| (id, token)).collect();
    if by_id.keys().copied().ne(0..by_id.len() as u32) {
        return Err(ModelError::Vocabulary("learnt token ids have gaps".to_owned()));
    }
    Ok(by_id.into_values().collect())
}

/// The crate shows its merges only in serialised form.
fn merges_of(model: &BPE) -> Result<Vec<(String, String)>> {
    let all = serde_json::to_value(model).map_err(|e| ModelError::Vocabulary(e.to_string()))?;
    serde_json::from_value(all["merges"].clone()).map_err(|e| ModelError::Vocabulary(e.to_string()))
}

fn strings(metadata: &Metadata, key: &str) -> Result<Vec<String>> {
    let wrong = || ModelError::Vocabulary(format!("{key} is not a list of strings"));
    let Some(Value::Array(all)) = metadata.get(key) else {
        return Err(wrong());
    };
    all.iter().map(|v| if let Value::String(s) = v { Ok(s.clone()) } else { Err(wrong()) }).collect()
}

fn vocabulary(error: tokenizers::Error) -> ModelError {
    ModelError::Vocabulary(error.to_string())
}

#[cfg(test)]
mod tests;
