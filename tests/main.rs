//! One binary for everything that crosses crates.

mod architecture;
mod harness;
mod http_errors;
mod http_generation;
// Helpers here are tests too, but clippy sees only functions that carry the attribute.
#![allow(clippy::unwrap_used)]

mod golden;
