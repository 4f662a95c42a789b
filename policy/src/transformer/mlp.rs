//! The gated feed-forward layer: down(silu(gate(x)) · up(x)).

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use super::{Pass, Weight};
use crate::{architecture::llama, kernels, model_error::Result};

pub(super) struct Mlp {
    gate: Weight,
    up: Weight,
    down: Weight,
}

impl Mlp {
    pub(super) fn new(parameters: &BTreeMap<String, Var>, layer: usize) -> Result<Mlp> {
        let weight = |what| Weight::named(parameters, &llama::block(layer, what));
        Ok(Mlp { gate: weight("ffn_gate")?, up: weight("ffn_up")?, down: weight("ffn_down")? })
    }

    /// `[n_tokens, hidden]` to the same.
    pub(super) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let gate = kernels::linear(x, self.gate.get(pass))?; // [n_tokens, ffn]
        let up = kernels::linear(x, self.up.get(pass))?; // [n_tokens, ffn]
        Ok(kernels::linear(&kernels::swiglu(&gate, &up)?, self.down.get(pass))?)
    }
}
