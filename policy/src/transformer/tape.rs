//! The trunk on candle's tape: from candle's plain operations the oracle of the explicit pass, from our own CUDA kernels
//! with candle's matrix products the pass of a GPU.

use candle_core::Tensor;

use super::{AttentionShape, Pass, Transformer, lora::factors_of};
use crate::{
    architecture::llama,
    kernels::{Operations, PassOperations},
    model_error::Result,
    sequence_batch::Packed,
};

pub(super) fn hidden(trunk: &Transformer, packed: &Packed, pass: Pass, operations: Operations) -> Result<Tensor> {
    let table = trunk.embedding().get(of_weights(trunk, pass));
    let mut x = operations.rows(table, &packed.ids)?; // [n_tokens, hidden]
    let operations = operations.open(packed, trunk.rope.rotation(packed), AttentionShape::of(&trunk.shape))?;
    for layer in 0..trunk.shape.n_layers {
        let block = Block { trunk, layer, pass, operations: &operations };
        x = (&x + block.attention(&x)?)?;
        x = (&x + block.mlp(&x)?)?;
    }
    norm(trunk, llama::OUTPUT_NORM, &x, pass, &operations)
}

fn norm(trunk: &Transformer, name: &str, x: &Tensor, pass: Pass, operations: &PassOperations<'_>) -> Result<Tensor> {
    let gain = trunk.weights[name].get(of_weights(trunk, pass));
    Ok(operations.rms_norm(x, gain, f64::from(trunk.shape.norm_eps))?)
}

/// Beside an adapter the weights are frozen in every pass.
fn of_weights(trunk: &Transformer, pass: Pass) -> Pass {
    if trunk.adapter.is_some() { Pass::Frozen } else { pass }
}

struct Block<'a> {
    trunk: &'a Transformer,
    layer: usize,
    pass: Pass,
    operations: &'a PassOperations<'a>,
}

impl Block<'_> {
    fn linear(&self, what: &str, x: &Tensor) -> Result<Tensor> {
        let name = llama::block(self.layer, what);
        let y = self.operations.linear(x, self.trunk.weights[&name].get(of_weights(self.trunk, self.pass)))?;
        let Some(adapter) = &self.trunk.adapter else {
            return Ok(y);
        };
        let factors = factors_of(&name);
        let [a, b] = [&factors[0], &factors[1]].map(|name| &adapter.parameters()[name]);
        let both = match self.pass {
            Pass::Train => [a.as_tensor().clone(), b.as_tensor().clone()],
            Pass::Frozen => [a.as_detached_tensor(), b.as_detached_tensor()],
        };
        let low = (self.operations.linear(x, &both[0])? * f64::from(adapter.shape().scale()))?; // [n_tokens, rank]
        Ok((y + self.operations.linear(&low, &both[1])?)?)
    }

    fn norm(&self, what: &str, x: &Tensor) -> Result<Tensor> {
        norm(self.trunk, &llama::block(self.layer, what), x, self.pass, self.operations)
    }

    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm("attn_norm", x)?;
        let q = self.operations.rope(&self.linear("attn_q", &x)?)?; // [n_tokens, heads * head_dim]
        let k = self.operations.rope(&self.linear("attn_k", &x)?)?; // [n_tokens, kv_heads * head_dim]
        let v = self.linear("attn_v", &x)?; // [n_tokens, kv_heads * head_dim]
        let mixed = self.operations.attention(&q, &k, &v)?; // [n_tokens, heads * head_dim]
        self.linear("attn_output", &mixed) // [n_tokens, hidden]
    }

    fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm("ffn_norm", x)?;
        let gate = self.linear("ffn_gate", &x)?; // [n_tokens, ffn]
        let up = self.linear("ffn_up", &x)?; // [n_tokens, ffn]
        self.linear("ffn_down", &self.operations.swiglu(&gate, &up)?) // [n_tokens, hidden]
    }
}
