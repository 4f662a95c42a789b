//! The model that is built into the binary, and how to build it again.
//!
//! Both files are made by `honed demo --from-scratch`; `artefacts/PROVENANCE.md` says with which seed, and their digests.

/// The supervised policy: version 0 when no model is configured. GGUF, f16.
pub const POLICY: &[u8] = include_bytes!("artefacts/policy.gguf");
/// The reward model that fits it. GGUF, f16, with its gain and bias.
pub const REWARD: &[u8] = include_bytes!("artefacts/reward.gguf");
/// Seed of the world in which both were made.
pub const WORLD_SEED: u64 = 1;
