//! Fuzzes the headers of safetensors files.
#![cfg_attr(fuzzing, no_main)]

fuzz::fuzz!(policy::fuzzing::safetensors);
