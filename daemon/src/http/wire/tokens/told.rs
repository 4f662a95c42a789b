//! What is told of tokens, piece by piece: about each of a million of them a line may be said, which is many times what they take.

use std::sync::Arc;

use policy::TokenId;

use super::{DetokenizeResponse, TokenEntry, TokenizeResponse};
use crate::http::wire::json;

/// Tokens in one piece of an answer; an answer with no more of them is whole.
const PIECE_TOKENS: usize = 1024;
/// Bytes of text in one piece.
const PIECE_BYTES: usize = 1 << 14;

/// Whether an answer about so many tokens comes in pieces.
pub(crate) fn is_long(n_tokens: usize) -> bool {
    n_tokens > PIECE_TOKENS
}

/// Tokens, and how they are told.
pub(crate) struct Told<E, T> {
    /// The tokens.
    pub(crate) tokens: Vec<TokenId>,
    /// Tokens of prompt and response together that the model takes.
    pub(crate) max_model_len: usize,
    /// A token in the list of ids.
    pub(crate) entry: E,
    /// Its text in a list of their own, where that was asked for.
    pub(crate) text: Option<T>,
}

impl<E, T> Told<E, T>
where
    E: Fn(TokenId) -> TokenEntry + Send + 'static,
    T: Fn(TokenId) -> String + Send + 'static,
{
    /// The JSON of [`TokenizeResponse`].
    pub(crate) fn pieces(self) -> Box<dyn Iterator<Item = String> + Send> {
        let Told { tokens, max_model_len, entry, text } = self;
        let count = tokens.len();
        if !is_long(count) {
            let token_strs = text.map(|text| tokens.iter().map(|&id| text(id)).collect());
            let tokens = tokens.into_iter().map(entry).collect();
            return Box::new(std::iter::once(json(&TokenizeResponse { count, max_model_len, tokens, token_strs })));
        }
        let tokens = Arc::new(tokens);
        let head = format!(r#"{{"count":{count},"max_model_len":{max_model_len},"tokens":["#);
        let entries = list(Arc::clone(&tokens), move |id| json(&entry(id)));
        let texts = text.map(|text| {
            let head = std::iter::once(r#","token_strs":["#.to_owned());
            head.chain(list(tokens, move |id| json(&text(id))))
        });
        let end = std::iter::once("}".to_owned());
        Box::new(std::iter::once(head).chain(entries).chain(texts.into_iter().flatten()).chain(end))
    }
}

/// The rest of a list behind its bracket, with the closing one.
fn list(tokens: Arc<Vec<TokenId>>, one: impl Fn(TokenId) -> String + Send) -> impl Iterator<Item = String> + Send {
    (0..tokens.len()).step_by(PIECE_TOKENS).map(move |at| {
        let end = (at + PIECE_TOKENS).min(tokens.len());
        let some: Vec<String> = tokens[at..end].iter().map(|&id| one(id)).collect();
        some.join(",") + if end < tokens.len() { "," } else { "]" }
    })
}

/// The JSON of [`DetokenizeResponse`].
pub(crate) fn detokenized(text: String) -> Box<dyn Iterator<Item = String> + Send> {
    if text.len() <= PIECE_BYTES {
        return Box::new(std::iter::once(json(&DetokenizeResponse { prompt: text.clone(), content: text })));
    }
    let text: Arc<str> = text.into();
    let between = |words: &str| std::iter::once(words.to_owned());
    let prompt = between(r#"{"prompt":""#).chain(quoted(Arc::clone(&text)));
    Box::new(prompt.chain(between(r#"","content":""#)).chain(quoted(text)).chain(between(r#""}"#)))
}

/// A text as it stands between quotes.
fn quoted(text: Arc<str>) -> impl Iterator<Item = String> + Send {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut end = (at + PIECE_BYTES).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let piece = json(&&text[at..end]);
        at = end;
        let inside = piece.get(1..piece.len() - 1)?;
        (!inside.is_empty()).then(|| inside.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::wire::tokens::Piece;

    /// Goal: a long answer is the same JSON as if it were made at once. Method: both, around the length of a piece and of two, with
    /// every list that there is.
    #[test]
    fn pieces_are_the_whole_answer() {
        let entry = |id: TokenId| TokenEntry::WithPiece { id: id.0, piece: Piece::of(&[b'"', (id.0 % 256) as u8]) };
        let text = |id: TokenId| format!("{}\u{1f30a}\"", id.0);
        for n in [0, 1, PIECE_TOKENS, PIECE_TOKENS + 1, 2 * PIECE_TOKENS, 2 * PIECE_TOKENS + 1] {
            for with_texts in [false, true] {
                let tokens: Vec<TokenId> = (0..n as u32).map(TokenId).collect();
                let whole = json(&TokenizeResponse {
                    count: n,
                    max_model_len: 7,
                    tokens: tokens.iter().map(|&id| entry(id)).collect(),
                    token_strs: with_texts.then(|| tokens.iter().map(|&id| text(id)).collect()),
                });
                let told = Told { tokens, max_model_len: 7, entry, text: with_texts.then_some(text) };
                let pieces: Vec<String> = told.pieces().collect();
                assert_eq!((pieces.len() > 1, pieces.concat()), (is_long(n), whole), "{n} {with_texts}");
            }
        }
    }

    #[test]
    fn pieces_of_a_text_are_the_whole_text() {
        for n in [0, 1, PIECE_BYTES / 4, PIECE_BYTES, PIECE_BYTES + 1] {
            let text = "\u{1f30a}\n\"".repeat(n);
            let whole = json(&DetokenizeResponse { prompt: text.clone(), content: text.clone() });
            let pieces: Vec<String> = detokenized(text).collect();
            assert!(pieces.concat() == whole && pieces.iter().all(|piece| piece.len() <= 3 * PIECE_BYTES), "{n}");
        }
    }
}
