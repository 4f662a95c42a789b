//! The decoder against the trainer, and against itself.

mod kernel;
mod same_bits;
