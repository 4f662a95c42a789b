//! What judges: the reward model, its ranking loss, and the sources of scores.

pub mod normalization;
pub mod ranking;
