//! One binary for everything that crosses crates.

// Helpers here are tests too, but clippy sees only functions that carry the attribute.
#![allow(clippy::unwrap_used)]

mod activations;
mod architecture;
mod bad_inputs;
mod command_line;
mod dashboards;
mod data_dirs;
mod doctor_cli;
mod enumerable_world;
mod eval_shapes;
mod golden;
mod harness;
mod http_audit;
mod http_behavior;
mod http_deadlines;
mod http_draining;
mod http_errors;
mod http_generation;
mod http_imports;
mod http_keys;
mod http_leaving;
mod http_lifecycle;
mod http_limits;
mod http_models;
mod http_openapi;
mod http_prompt_scores;
mod http_scoring;
mod http_soak;
mod http_texts;
mod http_tokens;
mod imports_again;
mod kills;
mod learner_resume;
mod learning_knobs;
mod llama_server;
mod log_faults;
mod log_scrubbing;
mod peers;
mod planted_reward;
mod reward_swap;
mod sabotage;
mod traces;
mod train_offline;
mod versions_cli;
