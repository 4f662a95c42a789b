//! What every token of a vocabulary spells.

use llama_cpp_2::model::LlamaModel;

use super::id_of;
use crate::token::TokenId;

/// The bytes of every token, one after the other.
#[derive(Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    /// Tokens that do not show in text: control tokens.
    pub(super) hidden: Vec<bool>,
    pub(super) longest: usize,
}

impl Pieces {
    pub(super) fn of(model: &LlamaModel) -> Pieces {
        let vocab = model.vocab();
        let mut pieces = Pieces { starts: vec![0], ..Pieces::default() };
        for token in vocab.tokens() {
            let shown = vocab.token_to_piece(token, false, None);
            let named = vocab.token_to_piece(token, true, None);
            pieces.hidden.push(shown.is_empty());
            pieces.longest = pieces.longest.max(named.len());
            pieces.bytes.extend_from_slice(&named);
            pieces.starts.push(pieces.bytes.len());
        }
        pieces
    }

    pub(super) fn get(&self, id: TokenId) -> &[u8] {
        let i = id.0 as usize;
        match (self.starts.get(i), self.starts.get(i + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start..end],
            _ => &[],
        }
    }

    pub(super) fn controls(&self, model: &LlamaModel) -> Vec<(String, TokenId)> {
        let vocab = model.vocab();
        let mut controls: Vec<(String, TokenId)> = vocab
            .tokens()
            .filter(|&token| vocab.is_control(token))
            .map(|token| (String::from_utf8_lossy(self.get(id_of(token))).into_owned(), id_of(token)))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        controls.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
        controls
    }
}
