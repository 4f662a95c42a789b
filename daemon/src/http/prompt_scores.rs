//! Scored prompts between the engine and the wire.

use policy::{TokenId, Vocabulary, engine::ScoredToken};

use super::{
    error::ApiError,
    wire::{
        error::FIELDS_DISAGREE,
        log_probs::TokenText,
        prompt_log_probs::{PromptReport, PromptScore},
    },
};

/// Log-probabilities of prompts in one answer at most, alternatives included: some 60 MiB while it is put together.
const SCORES_MAX: usize = 1 << 20;

/// One prompt of a request with what was asked about its tokens.
pub(crate) struct PromptScores {
    /// Which prompt.
    pub(crate) prompt: usize,
    /// One report a token, the first without a score.
    pub(crate) tokens: Vec<PromptReport>,
}

/// Describes a prompt that begins with `first`, which nothing predicts.
pub(crate) fn reports(vocabulary: &Vocabulary, first: TokenId, scored: &[ScoredToken]) -> Vec<PromptReport> {
    let text = |id: TokenId| TokenText(vocabulary.piece(id).to_vec());
    let report = |id: TokenId, score| PromptReport {
        id: id.0,
        text: text(id),
        is_control: vocabulary.text_piece(id).is_empty(),
        score,
    };
    let rest = scored.iter().map(|token| {
        let top = token.top.iter().map(|(id, log_prob)| (id.0, text(*id), log_prob.0)).collect();
        report(token.id, Some(PromptScore { log_prob: token.log_prob.0, rank: token.rank, top }))
    });
    std::iter::once(report(first, None)).chain(rest).collect()
}

/// Refuses answers that would be too large: `k` alternatives for every token of these prompts, told `n_times`.
pub(crate) fn check(
    prompts: &[Vec<TokenId>],
    field: &'static str,
    k: Option<u32>,
    n_times: u32,
) -> Result<(), ApiError> {
    let Some(k) = k else { return Ok(()) };
    let n_tokens = prompts.iter().map(Vec::len).sum::<usize>().saturating_mul(n_times as usize);
    let n_scores = n_tokens.saturating_mul(k as usize + 1);
    match n_scores <= SCORES_MAX {
        true => Ok(()),
        false => {
            let message = format!(
                "one answer holds at most {SCORES_MAX} log-probabilities of prompts; {n_tokens} tokens with {k} \
                 alternatives each are {n_scores}"
            );
            Err(ApiError::coded(FIELDS_DISAGREE, field, message))
        }
    }
}
