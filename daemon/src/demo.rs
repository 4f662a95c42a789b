//! The demonstration: a tiny world, a small model built from nothing in it, and a run in which PPO improves that model
//! while it serves.

pub mod world;
