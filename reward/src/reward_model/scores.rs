//! What the heads say, before it becomes a score.

use policy::{
    TokenId,
    model_error::ModelError,
    scalar_model::ScalarModel,
    sequence_batch::{Sequence, SequenceBatch},
    sft::balance,
    threads::pieces_min_of,
};
use rayon::prelude::*;

/// Tokens in one forward pass of scoring; bounds memory.
const PASS_TOKENS: usize = 2048;

/// Outputs of the head at each sequence's last token, before normalization, in their order; of several heads, their mean.
///
/// # Errors
/// When a sequence is empty, has a token outside the vocabulary, or the device fails.
pub fn raw_scores(model: &ScalarModel, sequences: &[Vec<TokenId>]) -> Result<Vec<f64>, ModelError> {
    let n = model.n_heads() as f64;
    Ok(member_scores(model, sequences)?.iter().map(|members| members.iter().sum::<f64>() / n).collect())
}

/// Where a sequence stands in its list, and what every head says about it.
type Numbered = (usize, Vec<f64>);

/// Outputs of every head at each sequence's last token, before normalization: `[sequences][heads]`.
///
/// # Errors
/// When a sequence is empty, has a token outside the vocabulary, or the device fails.
pub fn member_scores(model: &ScalarModel, sequences: &[Vec<TokenId>]) -> Result<Vec<Vec<f64>>, ModelError> {
    let numbered: Vec<(usize, &Vec<TokenId>)> = sequences.iter().enumerate().collect();
    let passes = balance(&numbered, |(_, s)| s.len(), PASS_TOKENS, pieces_min_of(model.trunk().shape().n_parameters()));
    let n_heads = model.n_heads();
    let scored: Vec<Result<Vec<Numbered>, ModelError>> = model.open(|model| {
        let score = |pass: &Vec<&(usize, &Vec<TokenId>)>| {
            let rows = pass.iter().map(|(_, tokens)| Sequence { tokens: (*tokens).clone(), prompt_len: 0 });
            let scores = model.scores_at_last(&SequenceBatch::new(rows.collect()))?;
            let members = scores.chunks(n_heads).map(|row| row.iter().copied().map(f64::from).collect());
            Ok(pass.iter().zip(members).map(|((i, _), members)| (*i, members)).collect())
        };
        Ok(passes.par_iter().map(score).collect())
    })?;
    let mut out = vec![Vec::new(); sequences.len()];
    for pass in scored {
        pass?.into_iter().for_each(|(i, members)| out[i] = members);
    }
    Ok(out)
}
