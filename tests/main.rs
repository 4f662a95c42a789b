//! One binary for everything that crosses crates.

mod architecture;
mod harness;
mod http_errors;
mod http_generation;
