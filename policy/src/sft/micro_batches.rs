//! Cutting a batch into micro-batches.

use crate::{
    packing::pack,
    sequence_batch::{Sequence, SequenceBatch},
};

/// Cuts a batch into micro-batches of at most `max_tokens` where sequences allow, at least one a lane (see [`pack`]).
#[must_use]
pub fn micro_batches(batch: &[Sequence], max_tokens: usize, lanes: usize) -> Vec<SequenceBatch> {
    let pieces = balance(batch, |s| s.tokens.len(), max_tokens, lanes);
    pieces.into_iter().map(|piece| SequenceBatch::new(piece.into_iter().cloned().collect())).collect()
}

/// The same for anything that has a number of tokens and must stay in one piece, such as a ranking.
#[must_use]
pub fn balance<T>(batch: &[T], n_tokens: impl Fn(&T) -> usize, max_tokens: usize, lanes: usize) -> Vec<Vec<&T>> {
    let lengths: Vec<usize> = batch.iter().map(n_tokens).collect();
    let items = |piece: Vec<usize>| piece.into_iter().map(|i| &batch[i]).collect();
    pack(&lengths, max_tokens, lanes).into_iter().map(items).collect()
}
