//! Fuzzes GGUF files from outside.
#![cfg_attr(fuzzing, no_main)]

fuzz::fuzz!(policy::fuzzing::gguf);
