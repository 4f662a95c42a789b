//! The `[policy]` section.

use serde::Deserialize;

/// What acts: the model that serves.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// GGUF file to serve; empty: the small model that is built into the binary.
    pub model: String,
    /// Name under which clients address the live policy.
    pub served_name: String,
    /// Sequences decoded at once. 1..=256
    pub parallel: usize,
    /// Tokens of prompt and response together, per sequence; 0: what the model was trained for, at most 4096. 0..=1048576
    pub context_tokens: u32,
    /// Threads of llama.cpp; 0: one per processor core. 0..=512
    pub threads: usize,
    /// Tokens in one forward pass; longer prompts are prefilled in chunks of this size between decode steps. 32..=8192
    pub batch_tokens: u32,
    /// Requests that may wait for a slot before newcomers get 429. 0..=100000
    pub max_queue: usize,
    /// Layers of the model on the GPU; 0: none. Needs the `cuda` feature. 0..=1000
    pub gpu_layers: u32,
    /// Seed of the stream from which requests without a seed draw theirs. 0..=18446744073709551615 (as i64 here)
    pub seed: u64,
}
