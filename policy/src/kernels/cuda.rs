//! Our own kernels for a GPU, as operations on candle's tape, wherever candle's plain operation is slow, large or serial.
//!
//! The kernels are CUDA C++ (`policy/native/cuda`), compiled when the crate is built with the feature `cuda-trainer`. What
//! stands here is everything around them: how a launch is laid out, what forward keeps for backward, who owns which buffer.
//! A [`Machine`] carries launches out. It is a GPU, or in tests an emulation of one that runs the very same sources on the
//! processor, so that all of it but the last step is tested on machines without a GPU. No kernel of these has run on a
//! device yet: `make cuda-check` and the tests marked "needs a GPU" are what remains to be done there.
//!
//! candle's part is the tape, the trunk's matrix products in f32 (cuBLAS) and the memory pool; in bf16 the products are ours too
//! (cuBLAS may round the factors, sums are f32). Each operation here is bitwise repeatable: nothing is
//! summed by atomics, and how sums are cut follows from shapes.

mod adam_w;
mod attention;
mod batch;
mod embedding;
mod launch;
mod linear;
mod log_prob;
mod machine;
mod product;
mod rms_norm;
mod swiglu;
mod taped;

#[cfg(test)]
mod emulation;
#[cfg(feature = "cuda-trainer")]
mod gpu;

pub(crate) use adam_w::{AdamNumbers, adam_w, sum_of_squares};
pub(crate) use batch::Batch;
pub(crate) use embedding::rows;
pub(crate) use linear::linear;
pub(crate) use log_prob::{CHUNK_BYTES, log_probs};
pub(crate) use machine::Machine;
pub(crate) use rms_norm::rms_norm;
pub(crate) use swiglu::swiglu;

#[cfg(feature = "cuda-trainer")]
pub(super) use gpu::open;

#[cfg(test)]
mod tests;
