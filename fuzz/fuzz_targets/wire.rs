//! Fuzzes request bodies and lines of files.
#![cfg_attr(fuzzing, no_main)]

fuzz::fuzz!(daemon::fuzzing);
