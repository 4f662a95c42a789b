//! What a candidate forgot of the pretraining text.

use policy::{
    causal_lm::CausalLm,
    model_error::ModelError,
    sequence_batch::{Sequence, SequenceBatch},
};

use super::Proposal;

/// Examples that are looked at: the same ones for every candidate.
const N_EXAMPLES: usize = 8;

/// Mean loss of the candidate on the first examples − that of version 0, nats a token; `None` without text.
///
/// # Errors
/// When a pass fails.
pub(super) fn rise(proposal: &Proposal<'_>) -> Result<Option<f64>, ModelError> {
    let examples = &proposal.pretraining[..proposal.pretraining.len().min(N_EXAMPLES)];
    if examples.is_empty() {
        return Ok(None);
    }
    let models = proposal.models;
    Ok(Some(loss(&models.policy, examples)? - loss(&models.reference, examples)?))
}

fn loss(policy: &CausalLm, examples: &[Sequence]) -> Result<f64, ModelError> {
    let batch = SequenceBatch::new(examples.to_vec());
    let log_probs = policy.frozen_log_probs(&batch, &vec![1.0; examples.len()])?.log_probs;
    Ok(-log_probs.iter().map(|x| f64::from(*x)).sum::<f64>() / log_probs.len().max(1) as f64)
}
