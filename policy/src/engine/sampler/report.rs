//! What a row of logits says about tokens, whoever draws from it: log-probs at temperature 1 over the full vocabulary.
//!
//! One normaliser serves the token itself and its alternatives, so where the token is among them the two floats are equal:
//! lm-evaluation-harness compares them to know whether an answer is the greedy one.

use super::{Sampler, index, log_prob};
use crate::{
    engine::{
        ScoredToken,
        softmax::{LogSoftmax, NotFinite, largest_logit},
        truncation::{Candidate, best_of_row},
    },
    log_prob::LogProb,
    token::TokenId,
};

/// Log-probabilities of the `k` most probable tokens, best first; ties by the lower id. `logits`: `[n_vocab]` f32.
///
/// # Errors
/// `NotFinite` when the row cannot be normalised.
pub fn top_log_probs(logits: &[f32], k: usize, scratch: &mut Sampler) -> Result<Vec<(TokenId, LogProb)>, NotFinite> {
    let softmax = normaliser(logits, scratch)?;
    Ok(best(logits, k, softmax, scratch))
}

/// Log-prob and rank of a given token, and the `k` most probable ones.
///
/// # Errors
/// `NotFinite` when the row cannot be normalised.
pub fn scored_token(logits: &[f32], id: TokenId, k: usize, scratch: &mut Sampler) -> Result<ScoredToken, NotFinite> {
    let softmax = normaliser(logits, scratch)?;
    let logit = logits[id.0 as usize];
    let n_better = logits.iter().filter(|&&other| other > logit).count();
    Ok(ScoredToken {
        id,
        log_prob: log_prob(softmax.log_prob(logit)),
        rank: index(n_better).saturating_add(1),
        top: best(logits, k, softmax, scratch),
    })
}

/// Log-probability of one token, nats.
///
/// # Errors
/// `NotFinite` when the row cannot be normalised.
pub fn raw_log_prob(logits: &[f32], id: TokenId, scratch: &mut Sampler) -> Result<LogProb, NotFinite> {
    Ok(log_prob(normaliser(logits, scratch)?.log_prob(logits[id.0 as usize])))
}

fn normaliser(logits: &[f32], scratch: &mut Sampler) -> Result<LogSoftmax, NotFinite> {
    Ok(scratch.raw.fill(logits, largest_logit(logits)?, 1.0))
}

fn best(logits: &[f32], k: usize, softmax: LogSoftmax, scratch: &mut Sampler) -> Vec<(TokenId, LogProb)> {
    if k == 0 {
        return Vec::new();
    }
    best_of_row(logits, k, &mut scratch.kept.tokens);
    let named = |c: &Candidate| (TokenId(c.id), log_prob(softmax.log_prob(c.logit)));
    scratch.kept.tokens.iter().map(named).collect()
}
