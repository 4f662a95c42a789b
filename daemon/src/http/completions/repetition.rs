//! How much of an answer may be prompts: each stands in all of its choices, as text and as ids.

use policy::{TokenId, Vocabulary};

use crate::http::{
    error::ApiError,
    wire::{completion::CompletionRequest, error::FIELDS_DISAGREE, prompt::Prompt},
};

/// Bytes of prompts in one answer at most: it is in memory until it is sent.
const BYTES_MAX: usize = 32 << 20;
/// Bytes of a token id and its comma in an answer at most, but for vocabularies beyond ten million.
const ID_BYTES: usize = 8;

/// Refuses a request that has its prompts repeated too often; `tokens` are those of its prompts.
pub(super) fn check(
    request: &CompletionRequest,
    tokens: &[Vec<TokenId>],
    vocabulary: &Vocabulary,
) -> Result<(), ApiError> {
    let n_bytes = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(ids) => ids.iter().map(|id| vocabulary.piece(*id).len()).sum(),
    };
    let echoed = if request.echo { request.prompts.iter().map(n_bytes).sum() } else { 0 };
    let n_ids: usize = if request.generation.return_token_ids { tokens.iter().map(Vec::len).sum() } else { 0 };
    check_bytes(echoed, n_ids * ID_BYTES, request.generation.n as usize)
}

fn check_bytes(echoed: usize, ids: usize, n: usize) -> Result<(), ApiError> {
    let n_bytes = (echoed + ids).saturating_mul(n);
    if n_bytes <= BYTES_MAX {
        return Ok(());
    }
    let field = if echoed > ids { "echo" } else { "return_token_ids" };
    let message = format!(
        "`{field}` repeats the prompts in each of their {n} choices; one answer holds at most {BYTES_MAX} bytes of prompts, \
         and these are {n_bytes}"
    );
    Err(ApiError::coded(FIELDS_DISAGREE, field, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a small body cannot ask for a huge answer. Method: sixteen prompts that fill a window of 4096, with the choices that one
    /// request may have, of tokens that are short and long; and one more byte than may be.
    #[test]
    fn prompts_are_not_repeated_without_bound() {
        let refused = |echoed, ids, n| match check_bytes(echoed, ids, n) {
            Ok(()) => None,
            Err(ApiError::Invalid { param, code: FIELDS_DISAGREE, .. }) => param,
            Err(other) => panic!("{other}"),
        };
        let n_tokens = 16 * 4095;
        assert_eq!(refused(n_tokens * 80, 0, 128).as_deref(), Some("echo"));
        assert_eq!(refused(0, n_tokens * ID_BYTES, 128).as_deref(), Some("return_token_ids"));
        assert_eq!(refused(n_tokens * 3, n_tokens * ID_BYTES, 1), None);
        assert_eq!([BYTES_MAX, BYTES_MAX + 1].map(|n_bytes| refused(n_bytes, 0, 1).is_some()), [false, true]);
    }
}
