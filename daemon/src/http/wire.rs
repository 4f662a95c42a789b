//! JSON as the clients know it, and nothing else: what is read becomes the types of the crates below, what is written
//! comes from them. The only place of the daemon where field names are spelled.

pub(crate) mod audit;
pub(crate) mod chat;
pub(crate) mod client;
pub(crate) mod completion;
pub(crate) mod dataset;
pub(crate) mod demo;
pub(crate) mod error;
pub(crate) mod feedback;
pub(crate) mod fields;
pub(crate) mod forget;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub(crate) mod grammar;
pub(crate) mod health;
pub(crate) mod log_probs;
pub(crate) mod measurement;
pub(crate) mod model;
pub(crate) mod openapi;
pub(crate) mod policy;
pub(crate) mod prompt;
pub(crate) mod prompt_log_probs;
pub(crate) mod rerank;
pub(crate) mod reward;
pub(crate) mod reward_model;
pub(crate) mod rollout;
pub(crate) mod sampling;
pub(crate) mod score;
pub(crate) mod scoring;
pub(crate) mod shapes;
pub(crate) mod text;
pub(crate) mod timings;
pub(crate) mod tokens;
mod tool_calls;
pub(crate) mod trace;
pub(crate) mod training;
mod unbuilt;
pub(crate) mod usage;

use serde::{Serialize, de::DeserializeOwned};

/// One line of JSON. Our answers are structs of strings, numbers and lists, which always serialise.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data serialises")
}

/// What we wrote as [`json`] ourselves.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn written<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}
