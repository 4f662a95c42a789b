//! Causal self-attention with grouped queries.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Tensor, Var};

use super::{Pass, Weight};
use crate::{
    architecture::{Shape, llama},
    kernels::{self, Rotation},
    model_error::Result,
    sequence_batch::Packed,
};

/// How many heads of which width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of each.
    pub head_dim: usize,
}

pub(super) struct Attention {
    query: Weight,
    key: Weight,
    value: Weight,
    output: Weight,
    shape: AttentionShape,
}

impl Attention {
    pub(super) fn new(parameters: &BTreeMap<String, Var>, layer: usize, shape: &Shape) -> Result<Attention> {
        let weight = |what| Weight::named(parameters, &llama::block(layer, what));
        Ok(Attention {
            query: weight("attn_q")?,
            key: weight("attn_k")?,
            value: weight("attn_v")?,
            output: weight("attn_output")?,
            shape: AttentionShape { n_heads: shape.n_heads, n_kv_heads: shape.n_kv_heads, head_dim: shape.head_dim },
        })
    }

    /// `[n_tokens, hidden]` to the same.
    pub(super) fn forward(&self, x: &Tensor, packed: &Packed, rotation: &Arc<Rotation>, pass: Pass) -> Result<Tensor> {
        let q = kernels::rope(&kernels::linear(x, self.query.get(pass))?, rotation)?; // [n_tokens, heads * head_dim]
        let k = kernels::rope(&kernels::linear(x, self.key.get(pass))?, rotation)?; // [n_tokens, kv_heads * head_dim]
        let v = kernels::linear(x, self.value.get(pass))?; // [n_tokens, kv_heads * head_dim]
        let mixed = kernels::attention(&q, &k, &v, packed, self.shape)?; // [n_tokens, heads * head_dim]
        Ok(kernels::linear(&mixed, self.output.get(pass))?)
    }
}
