//! The trunk from candle's differentiable operations: the oracle of the explicit pass, and the pass of devices without
//! kernels of ours.

use candle_core::Tensor;

use super::{AttentionShape, Pass, Transformer};
use crate::{
    architecture::llama,
    kernels::{Rotation, plain},
    model_error::Result,
    sequence_batch::Packed,
};

pub(super) fn hidden(trunk: &Transformer, packed: &Packed, pass: Pass) -> Result<Tensor> {
    let ids = Tensor::new(packed.ids.as_slice(), trunk.device())?; // [n_tokens]
    let rotation = trunk.rope.rotation(packed);
    let mut x = trunk.embedding().get(pass).index_select(&ids, 0)?; // [n_tokens, hidden]
    for layer in 0..trunk.shape.n_layers {
        let block = Block { trunk, layer, pass };
        x = (&x + block.attention(&x, packed, &rotation)?)?;
        x = (&x + block.mlp(&x)?)?;
    }
    norm(trunk, llama::OUTPUT_NORM, &x, pass)
}

fn norm(trunk: &Transformer, name: &str, x: &Tensor, pass: Pass) -> Result<Tensor> {
    Ok(plain::rms_norm(x, trunk.weights[name].get(pass), f64::from(trunk.shape.norm_eps))?)
}

struct Block<'a> {
    trunk: &'a Transformer,
    layer: usize,
    pass: Pass,
}

impl Block<'_> {
    fn weight(&self, what: &str) -> &Tensor {
        self.trunk.weights[&llama::block(self.layer, what)].get(self.pass)
    }

    fn norm(&self, what: &str, x: &Tensor) -> Result<Tensor> {
        norm(self.trunk, &llama::block(self.layer, what), x, self.pass)
    }

    fn attention(&self, x: &Tensor, packed: &Packed, rotation: &Rotation) -> Result<Tensor> {
        let x = self.norm("attn_norm", x)?;
        let q = plain::rope(&plain::linear(&x, self.weight("attn_q"))?, rotation)?; // [n_tokens, heads * head_dim]
        let k = plain::rope(&plain::linear(&x, self.weight("attn_k"))?, rotation)?; // [n_tokens, kv_heads * head_dim]
        let v = plain::linear(&x, self.weight("attn_v"))?; // [n_tokens, kv_heads * head_dim]
        let mixed = plain::attention(&q, &k, &v, packed, AttentionShape::of(&self.trunk.shape))?;
        Ok(plain::linear(&mixed, self.weight("attn_output"))?) // [n_tokens, hidden]
    }

    fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm("ffn_norm", x)?;
        let gate = plain::linear(&x, self.weight("ffn_gate"))?; // [n_tokens, ffn]
        let up = plain::linear(&x, self.weight("ffn_up"))?; // [n_tokens, ffn]
        Ok(plain::linear(&plain::swiglu(&gate, &up)?, self.weight("ffn_down"))?) // [n_tokens, hidden]
    }
}
