//! One binary for everything that crosses crates.

mod architecture;
