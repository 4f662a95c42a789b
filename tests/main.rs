//! One binary for everything that crosses crates.

// Helpers here are tests too, but clippy sees only functions that carry the attribute.
#![allow(clippy::unwrap_used)]

mod architecture;
mod bad_inputs;
mod dashboards;
mod enumerable_world;
mod eval_shapes;
mod golden;
mod harness;
mod http_errors;
mod http_generation;
mod http_lifecycle;
mod http_limits;
mod http_models;
mod http_openapi;
mod http_prompt_scores;
mod http_scoring;
mod http_tokens;
mod learner_resume;
mod learning_knobs;
mod llama_server;
mod peers;
mod planted_reward;
mod train_offline;
