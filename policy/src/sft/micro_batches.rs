//! Cutting a batch into micro-batches.

use crate::sequence_batch::{Sequence, SequenceBatch};

/// Cuts a batch into micro-batches of about equally many tokens: at most `max_tokens` where sequences allow, and a multiple
/// of `lanes` where there are sequences enough, so that no lane waits for another.
#[must_use]
pub fn micro_batches(batch: &[Sequence], max_tokens: usize, lanes: usize) -> Vec<SequenceBatch> {
    let pieces = balance(batch, |s| s.tokens.len(), max_tokens, lanes);
    pieces.into_iter().map(|piece| SequenceBatch::new(piece.into_iter().cloned().collect())).collect()
}

/// The same for anything that has a number of tokens and must stay in one piece, such as a ranking.
///
/// Longest first into the emptiest piece. Order inside a batch changes no gradient.
#[must_use]
pub fn balance<T>(batch: &[T], n_tokens: impl Fn(&T) -> usize, max_tokens: usize, lanes: usize) -> Vec<Vec<&T>> {
    let total: usize = batch.iter().map(&n_tokens).sum();
    let n = total.div_ceil(max_tokens.max(1)).next_multiple_of(lanes.max(1)).clamp(1, batch.len().max(1));
    let mut pieces: Vec<(usize, Vec<&T>)> = (0..n).map(|_| (0, Vec::new())).collect();
    let mut order: Vec<&T> = batch.iter().collect();
    order.sort_by_key(|item| std::cmp::Reverse(n_tokens(item)));
    for item in order {
        let emptiest = pieces.iter_mut().min_by_key(|(tokens, _)| *tokens).expect("there is at least one piece");
        emptiest.0 += n_tokens(item);
        emptiest.1.push(item);
    }
    pieces.into_iter().map(|(_, piece)| piece).filter(|piece| !piece.is_empty()).collect()
}
