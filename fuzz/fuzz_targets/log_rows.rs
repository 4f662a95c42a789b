//! Fuzzes columns of the rollout log.
#![cfg_attr(fuzzing, no_main)]

fuzz::fuzz!(ppo::rollout_log::fuzzing);
