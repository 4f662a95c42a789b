//! The arithmetic of training on the processor: fused operations, forward and explicit backward side by side.
//!
//! A forward function says in its documentation what backward needs kept; a backward function adds into buffers that its
//! caller owns. No tape decides what memory lives how long, so memory, order and determinism are ours. [`plain`] composes
//! the same operations from candle's differentiable ones: it is the oracle that every kernel is tested against, and what
//! runs on devices that have no kernels of ours. candle's own fused softmax, norms and rotary embeddings are never used:
//! they record no backward operation and cut the gradient silently.

pub(crate) mod attention;
mod exp;
pub(crate) mod log_prob;
pub(crate) mod matrix;
pub mod plain;
pub(crate) mod product;
pub(crate) mod rms_norm;
mod rope;
mod rows;
pub(crate) mod swiglu;

pub use matrix::Precision;
pub use product::{backend, bf16_level};
pub use rope::Rotation;
pub(crate) use rows::{change, values};

#[cfg(test)]
mod tests;
