//! Whether a run still computes.

use crate::model_error::{ModelError, Result};

/// Refuses a step whose loss or gradient norm is infinite or no number, before the optimiser carries it into every weight.
///
/// - `step`: from 1, of `n_steps`;
/// - `loss`: before the step, nats; `grad_norm`: before clipping.
///
/// # Errors
/// [`ModelError::Diverged`] with the first of the two that is not finite.
pub fn check_step(step: usize, n_steps: usize, loss: f64, grad_norm: f64) -> Result<()> {
    let (what, value) = match (loss.is_finite(), grad_norm.is_finite()) {
        (true, true) => return Ok(()),
        (true, false) => ("gradient norm", grad_norm),
        (false, _) => ("loss", loss),
    };
    // Before the first step nothing was learnt, so no learning rate is to blame.
    let advice = match step {
        1 => "the model or the data gave it before anything was learnt",
        _ => "lower the learning rate",
    };
    Err(ModelError::Diverged { step, n_steps, what, value, advice })
}

/// As [`check_step`], for what the weights give after a step.
///
/// # Errors
/// [`ModelError::Diverged`] when it is not finite.
pub fn check_after(step: usize, n_steps: usize, what: &'static str, value: f64) -> Result<()> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(ModelError::Diverged { step, n_steps, what, value, advice: "lower the learning rate" }),
    }
}
