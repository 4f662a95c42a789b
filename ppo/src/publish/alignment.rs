//! How much likelier an update made what it learnt from.

use policy::{
    causal_lm::CausalLm,
    model_error::ModelError,
    sequence_batch::{Sequence, SequenceBatch},
};

use crate::gate::{Lesson, alignment};

/// Sequences of one pass.
const BATCH: usize = 8;
/// Tokens looked at, at most: a spot check, not one more pass over a round of long answers.
const N_TOKENS_MAX: usize = 8192;

/// [`alignment`] of the policy after the update with the first lessons.
///
/// # Errors
/// When the pass fails.
pub(super) fn measure(policy: &CausalLm, lessons: &[(Lesson, Sequence)]) -> Result<Option<f64>, ModelError> {
    let mut n_left = N_TOKENS_MAX;
    let few = lessons.iter().take_while(|(_, sequence)| {
        let fits = sequence.tokens.len() <= n_left;
        n_left = n_left.saturating_sub(sequence.tokens.len());
        fits
    });
    let few: Vec<&(Lesson, Sequence)> = few.collect();
    let mut gains = Vec::with_capacity(few.len());
    for chunk in few.chunks(BATCH) {
        let batch = SequenceBatch::new(chunk.iter().map(|(_, sequence)| sequence.clone()).collect());
        let temperatures: Vec<f32> = chunk.iter().map(|(lesson, _)| lesson.temperature).collect();
        let mut now = policy.frozen_log_probs(&batch, &temperatures)?.log_probs.into_iter().map(f64::from);
        for (lesson, sequence) in chunk {
            let n = sequence.tokens.len() - sequence.prompt_len;
            gains.push(now.by_ref().take(n).sum::<f64>() - lesson.old_log_prob);
        }
    }
    let paid: Vec<f64> = few.iter().map(|(lesson, _)| lesson.paid).collect();
    Ok(alignment(&paid, &gains))
}
