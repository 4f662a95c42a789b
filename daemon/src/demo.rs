//! The demonstration: a tiny world, a small model built from nothing in it, and a run in which PPO improves that model
//! while it serves.

mod encoder;
mod error;
mod progress;
mod sampling;
mod scratch;
pub mod world;

pub use error::DemoError;

/// Builds from scratch.
pub fn from_scratch(seed: u64, folder: &std::path::Path) -> Result<(), DemoError> {
    scratch::build(seed, folder, &progress::Progress::new())
}
