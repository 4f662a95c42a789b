//! The arithmetic of training: fused operations, forward and explicit backward side by side.
//!
//! On the processor a forward function says in its documentation what backward needs kept; a backward function adds into
//! buffers that its caller owns. No tape decides what memory lives how long, so memory, order and determinism are ours.
//! [`plain`] composes the same operations from candle's differentiable ones: it is the oracle that every kernel is tested
//! against. On a GPU `cuda` puts kernels of ours on candle's tape in their place (`operations` chooses). candle's own fused
//! softmax, norms and rotary embeddings are never used: they record no backward operation and cut the gradient silently.

pub(crate) mod attention;
#[cfg(any(test, feature = "cuda-trainer"))]
pub(crate) mod cuda;
mod device;
mod exp;
pub(crate) mod log_prob;
pub(crate) mod matrix;
mod operations;
pub mod plain;
pub(crate) mod product;
pub(crate) mod rms_norm;
pub(crate) mod rope;
mod rows;
pub(crate) mod swiglu;

pub use device::{device, gflops_on};
pub(crate) use exp::softmax;
pub use matrix::Precision;
pub(crate) use operations::{Operations, PassOperations};
pub use product::{backend, bf16_level, gflops};
pub use rope::Rotation;
pub(crate) use rows::{change, values};

#[cfg(test)]
mod tests;
