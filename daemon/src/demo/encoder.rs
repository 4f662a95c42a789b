//! The two formats in which a prompt reaches the model, as token sequences.
//!
//! Chat: `<|user|>…<|assistant|>answer<|endoftext|>`. Plain: `instruction⏎answer<|endoftext|>`. Text is cut into tokens
//! piece by piece between special tokens, exactly as the served model's template does it.

use policy::{
    TokenId,
    byte_pair::{ASSISTANT, Bpe, END, USER},
    sequence_batch::Sequence,
};

use super::error::Result;

/// Turns text of the tiny world into sequences.
pub(super) struct Encoder<'a>(pub(super) &'a Bpe);

impl Encoder<'_> {
    /// A prompt, ready for the answer.
    pub(super) fn prompt(&self, instruction: &str, chat: bool) -> Result<Vec<TokenId>> {
        if !chat {
            return Ok(self.0.encode(&format!("{instruction}\n"))?);
        }
        let mut tokens = vec![USER];
        tokens.extend(self.0.encode(instruction)?);
        tokens.push(ASSISTANT);
        Ok(tokens)
    }

    /// An answer that ends.
    pub(super) fn answer(&self, text: &str) -> Result<Vec<TokenId>> {
        let mut tokens = self.0.encode(text)?;
        tokens.push(END);
        Ok(tokens)
    }

    /// A document of pretraining text between two separators: the first is what its first token is predicted from.
    pub(super) fn document(&self, text: &str) -> Result<Sequence> {
        let mut tokens = vec![END];
        tokens.extend(self.answer(text)?);
        Ok(Sequence::text(tokens))
    }
}
