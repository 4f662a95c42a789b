//! The losses of PPO, with their gradients written out.
//!
//! Each takes what the model said for every token (`[n]`, flat, sequence after sequence), and returns the loss with its
//! derivative in exactly those numbers. The trainer multiplies: it backpropagates Σ_t x_t · stop_grad(dL/dx_t) through
//! the model, which has the same gradient as L. So the formulas stand apart from any tensor library.
//!
//! How tokens are averaged is not the losses' business: it is a vector of coefficients, one per token, which is made
//! once for a *minibatch* and then cut where the micro-batches are cut ([`aggregation`]). Averaging the means of
//! micro-batches instead would weigh short responses more, and is a mistake that golden file 20 has a number for.

pub mod aggregation;
pub mod penalty;
pub mod policy;
pub mod value;

pub use aggregation::Aggregation;
pub use penalty::KlPenalty;
pub(crate) use policy::bounded_k3;
pub use policy::{ApproxKl, PolicyClip, PolicyLoss, PolicyTokens, policy_loss};
pub use value::{ValueLoss, ValueTokens, explained_variance, value_loss};

/// Log-ratios are clamped to ± this before `exp`, and not the ratio afterwards: `e^20` is beyond any clip already, and
/// `e^710` is infinite.
pub const LOG_RATIO_MAX: f64 = 20.0;

/// `exp(clamp(d))`: the probability ratio for a difference of log-probs.
#[must_use]
pub fn ratio(d: f64) -> f64 {
    d.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp()
}
