//! Cutting a batch into micro-batches.

use crate::sequence_batch::{Sequence, SequenceBatch};

/// Cuts a batch into micro-batches of about equally many tokens: at most `max_tokens` where sequences allow, and a multiple
/// of `lanes` where there are sequences enough, so that no lane waits for another.
///
/// Longest sequence first into the emptiest micro-batch. Order inside a batch changes no gradient.
#[must_use]
pub fn micro_batches(batch: &[Sequence], max_tokens: usize, lanes: usize) -> Vec<SequenceBatch> {
    let total: usize = batch.iter().map(|s| s.tokens.len()).sum();
    let lanes = lanes.max(1);
    let n = total
        .div_ceil(max_tokens.max(1))
        .next_multiple_of(lanes)
        .clamp(1, batch.len().max(1));
    let mut bins = vec![(0usize, SequenceBatch::default()); n];
    let mut order: Vec<&Sequence> = batch.iter().collect();
    order.sort_by_key(|s| std::cmp::Reverse(s.tokens.len()));
    for sequence in order {
        let emptiest = bins
            .iter_mut()
            .min_by_key(|(tokens, _)| *tokens)
            .expect("there is at least one bin");
        emptiest.0 += sequence.tokens.len();
        emptiest.1.sequences.push(sequence.clone());
    }
    bins.into_iter()
        .map(|(_, batch)| batch)
        .filter(|batch| !batch.sequences.is_empty())
        .collect()
}
