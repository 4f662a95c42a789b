//! Gradients and AdamW, with every piece of state in the open.
//!
//! candle's own AdamW hides its moments, so a run could not be resumed bit for bit; this one hands them out by name.
//! The update is PyTorch's form (eps is added to the root of the bias-corrected second moment), the decay is decoupled.

mod adam_w;
mod gradients;
mod rule;
mod saved;

pub use adam_w::{AdamConfig, AdamState, AdamW, Moments};
pub use gradients::{Gradient, Gradients, accumulate, clip_factor};
pub use saved::{read_run, write_run};

#[cfg(test)]
mod tests;
