//! What the policy says under gradient: log-probs, and its entropy where a bonus is paid for it.

use candle_core::Tensor;
use policy::{causal_lm::CausalLm, kernels, model_error::Result, sequence_batch::SequenceBatch, transformer::Pass};

/// ℓ_t of every response token, `[n]`, and the term that the entropy bonus adds to the loss, a scalar.
///
/// `term = −c_H·Σ_t c_t·H_t`: entropy is to rise, so the loss falls with it. Source: Mnih et al. (arXiv 1602.01783).
/// - `coefficients`: c_t, `[n]`, from [`Aggregation`](crate::loss::Aggregation); `entropy_coef`: c_H.
///
/// Without a bonus the logits need not be held for it, and there is no term.
pub(super) fn log_probs_and_bonus(
    policy: &CausalLm,
    batch: &SequenceBatch,
    temperatures: &[f32],
    coefficients: &[f64],
    entropy_coef: f64,
) -> Result<(Tensor, Option<Tensor>)> {
    if entropy_coef == 0.0 {
        return Ok((policy.response_log_probs(batch, temperatures)?, None));
    }
    let (logits, targets, temperatures) = policy.response_logits(batch, temperatures, Pass::Train)?;
    let log_probs = kernels::log_prob_gather(&logits, &targets, &temperatures)?; // [n]
    let entropies = kernels::entropy(&logits, &temperatures)?; // [n]
    let slope: Vec<f32> = coefficients.iter().map(|c| (-entropy_coef * c) as f32).collect();
    let slope = Tensor::from_vec(slope, entropies.dims(), entropies.device())?;
    Ok((log_probs, Some((entropies * slope)?.sum_all()?)))
}
