//! Opening a trunk's weights for passes.
//!
//! Weights live in candle's variables, behind locks that a pass must hold. They are opened once for many passes, because in
//! bf16 opening also rounds every matrix: a copy of half the size that lives as long as the passes do.

use std::collections::BTreeMap;

use candle_core::Var;

use super::{
    AttentionShape, Transformer,
    attention::AttentionLayer,
    linear::Linear,
    mlp::MlpLayer,
    norm::Norm,
    pass::{Batch, Block, OpenTrunk},
};
use crate::{
    architecture::{Shape, llama},
    kernels::{
        matrix::{Matrix, Precision},
        values,
    },
    model_error::{ModelError, Result},
    sequence_batch::Packed,
};

/// Parameters as slices, by name.
pub(crate) struct Open<'a> {
    slices: BTreeMap<&'a str, (&'a [f32], &'a [usize])>,
    precision: Precision,
}

impl Open<'_> {
    /// Holds the locks of these parameters while `run` works with them.
    ///
    /// # Errors
    /// When a parameter does not lie in memory as f32, and those of `run`.
    pub(crate) fn with<R>(
        parameters: &BTreeMap<String, Var>,
        precision: Precision,
        run: impl FnOnce(&Open<'_>) -> Result<R>,
    ) -> Result<R> {
        let guards: Vec<_> = parameters.values().map(|var| values(var.as_tensor())).collect();
        let mut slices = BTreeMap::new();
        for ((name, var), guard) in parameters.iter().zip(&guards) {
            slices.insert(name.as_str(), (guard.slice()?, var.dims()));
        }
        run(&Open { slices, precision })
    }
}

impl<'a> Open<'a> {
    /// A parameter's name, as it lives in the model, and its numbers.
    pub(crate) fn slice(&self, name: &str) -> Result<(&'a str, &'a [f32])> {
        let found = self.slices.get_key_value(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        Ok((found.0, found.1.0))
    }

    /// A weight `[out, in]`, ready to be multiplied.
    pub(crate) fn linear(&self, name: &str) -> Result<Linear<'a>> {
        let (name, numbers) = self.slice(name)?;
        let n_in = self.slices[name].1.last().copied().unwrap_or(1);
        Ok(Linear::new(name, Matrix::new(numbers, n_in, self.precision)))
    }

    fn norm(&self, name: &str, eps: f32) -> Result<Norm<'a>> {
        let (name, gain) = self.slice(name)?;
        Ok(Norm::new(name, gain, eps))
    }

    /// The trunk of this shape.
    pub(crate) fn trunk(&self, shape: &Shape) -> Result<OpenTrunk<'a>> {
        Ok(OpenTrunk {
            embedding: self.slice(llama::TOKEN_EMBEDDING)?,
            blocks: (0..shape.n_layers).map(|layer| self.block(layer, shape)).collect::<Result<_>>()?,
            norm: self.norm(llama::OUTPUT_NORM, shape.norm_eps)?,
            hidden: shape.hidden,
        })
    }

    fn block(&self, layer: usize, shape: &Shape) -> Result<Block<'a>> {
        let linear = |what| self.linear(&llama::block(layer, what));
        let norm = |what| self.norm(&llama::block(layer, what), shape.norm_eps);
        Ok(Block {
            attention: AttentionLayer {
                norm: norm("attn_norm")?,
                query: linear("attn_q")?,
                key: linear("attn_k")?,
                value: linear("attn_v")?,
                output: linear("attn_output")?,
            },
            mlp: MlpLayer {
                norm: norm("ffn_norm")?,
                gate: linear("ffn_gate")?,
                up: linear("ffn_up")?,
                down: linear("ffn_down")?,
            },
        })
    }
}

impl Transformer {
    /// What the layers of one pass over these tokens share.
    pub(crate) fn batch<'a>(&self, packed: &'a Packed, precision: Precision) -> Batch<'a> {
        let shape = AttentionShape::of(&self.shape);
        Batch { packed, rotation: self.rope.rotation(packed), shape, precision }
    }
}

impl AttentionShape {
    pub(super) fn of(shape: &Shape) -> AttentionShape {
        AttentionShape { n_heads: shape.n_heads, n_kv_heads: shape.n_kv_heads, head_dim: shape.head_dim }
    }
}
