//! What a candidate forgot of the pretraining text.

use policy::sft::mean_nll;

use super::{Proposal, PublishError};
use crate::experience::micro_batch_tokens;

/// Texts between two looks at whether somebody wants the publication to end.
const N_AT_ONCE: usize = 8;

/// Mean loss of the candidate on the texts that measure it − that of version 0, nats a token; `None` without text.
///
/// # Errors
/// When a pass fails, or somebody wants an end.
pub(super) fn rise(
    proposal: &Proposal<'_>,
    config: &config::Ppo,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Option<f64>, PublishError> {
    let models = proposal.models;
    let budget = micro_batch_tokens(config, models.policy.trunk().shape());
    let (mut rise, mut n_all) = (0.0, 0.0);
    for texts in proposal.measured_texts.chunks(N_AT_ONCE) {
        if !go_on() {
            return Err(PublishError::Interrupted);
        }
        let n_tokens = texts.iter().map(|text| text.response().len()).sum::<usize>() as f64;
        // Both are means over these texts' tokens.
        rise += n_tokens * (mean_nll(&models.policy, texts, budget)? - mean_nll(&models.reference, texts, budget)?);
        n_all += n_tokens;
    }
    Ok((n_all > 0.0).then(|| rise / n_all))
}
