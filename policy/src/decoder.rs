//! The forward pass that serves on a processor.
//!
//! llama.cpp computes every family of models on every device, through a graph that it builds anew. For the family that honed trains,
//! on a processor, this module computes the same numbers with less in between: weights lie in the order in which they are read,
//! one kernel multiplies everything, and the threads of a pass meet without a graph.
//!
//! Sums are in f32, and their order depends on nothing but the numbers that are summed: a token's logits are the same bits alone and
//! in a batch, in one chunk and in many, computed and copied, on one thread and on all. So a log-prob that was drawn with is the
//! log-prob that scoring gives; and with a cache in f32 the trainer's up to the last digits.
//!
//! Types: f32, f16, bf16 and Q8_0, the last as f32 too: activations are not rounded. Keys and values are kept in f16, beside weights in
//! f32 in f32.

mod adapter;
mod attention;
mod buffers;
mod context;
mod lanes;
mod lines;
mod matrix;
mod model;
mod numbers;
mod pages;
mod panels;
mod pass;
mod product;
mod team;

pub(crate) use self::{
    adapter::{Adapter, adapter_bytes},
    context::{Context, Entry, Footprint, Limits, State},
    model::{Model, shape_of},
    pages::POSITIONS,
};

/// What it is called where users look, with the vectors that it computes with.
pub(crate) const NAME: &str = if lanes::ARE_WIDE { "honed's decoder (AVX-512)" } else { "honed's decoder" };

#[cfg(test)]
mod tests;
