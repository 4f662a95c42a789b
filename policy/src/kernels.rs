//! The seam under the trunk: the few operations that deserve more than candle's own.
//!
//! Each operation exists twice. [`plain`] composes candle's differentiable operations and runs on any device and type; it
//! is the oracle. Its fused twin (CPU, f32) makes one pass over memory and carries its own backward, tested against the
//! oracle. The functions of this module choose by device and type. candle's own fused softmax, norms and rotary embeddings
//! are never used: they record no backward operation and cut the gradient silently.

mod attention;
mod exp;
mod linear;
mod log_prob;
pub mod plain;
mod rms_norm;
mod rope;
mod rows;
mod swiglu;

pub use attention::attention;
pub use linear::linear;
pub use log_prob::{entropy, log_prob_gather};
pub use rms_norm::rms_norm;
pub use rope::{Rotation, rope};
pub(crate) use rows::values;
pub use swiglu::swiglu;

use candle_core::{DType, Tensor};

/// Whether the fused twin exists for this tensor.
fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

#[cfg(test)]
mod tests;
