//! The process: HTTP, command line, demo, and the composition of everything below.

// They panic where nobody reads: `cli::say` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod activation;
pub mod app;
mod bench;
pub mod cli;
pub mod demo;
mod eval;
mod http;
mod lookout;
mod reward_seat;
mod sampling;
mod scratch;
pub mod shutdown;
pub mod telemetry;
mod train;
mod watch;
mod writable;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use http::wire::fuzzing;
