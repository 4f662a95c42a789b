//! The process: HTTP, command line, demo, and the composition of everything below.

pub mod demo;
