//! Fuzzes the configuration's three layers.
#![cfg_attr(fuzzing, no_main)]

fuzz::fuzz!(config::fuzzing);
