//! Opening a trunk's weights for passes.
//!
//! Weights live in candle's variables, behind locks that a pass must hold. They are opened once for many passes; in bf16
//! opening also rounds every matrix of which there is no copy ([`Rounded`]).

use std::collections::BTreeMap;

use candle_core::Var;

use super::{
    Adapter, AttentionShape, Transformer,
    attention::AttentionLayer,
    linear::{Linear, LowRank},
    lora::factors_of,
    mlp::MlpLayer,
    norm::Norm,
    pass::{Batch, Block, OpenTrunk},
    rounded::{Copies, Rounded},
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

/// What a model is computed from.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'m> {
    /// Every tensor of the architecture that is in memory as f32.
    pub(crate) all: &'m BTreeMap<String, Var>,
    /// bf16 copies of its matrices.
    pub(crate) rounded: &'m Rounded,
    /// Low-rank factors beside them.
    pub(crate) adapter: Option<&'m Adapter>,
    /// What learns.
    pub(crate) trainable: &'m BTreeMap<String, Var>,
    pub(crate) precision: Precision,
}

/// Numbers of a tensor, and its dimensions.
type Slice<'a> = (&'a [f32], &'a [usize]);
type Slices<'a> = BTreeMap<&'a str, Slice<'a>>;

/// Parameters as slices, by name.
pub(crate) struct Open<'a> {
    slices: Slices<'a>,
    /// Matrices in bf16, where products are computed in that.
    copies: Option<&'a Copies>,
    factors: Slices<'a>,
    weights: Weights<'a>,
}

impl Weights<'_> {
    /// Holds the locks of these parameters while `run` works with them.
    ///
    /// # Errors
    /// When a parameter does not lie in memory as f32, and those of `run`.
    pub(crate) fn open<R>(&self, run: impl FnOnce(&Open<'_>) -> Result<R>) -> Result<R> {
        let nothing = BTreeMap::new();
        let factors = self.adapter.map_or(&nothing, Adapter::parameters);
        let guards =
            [self.all, factors].map(|vars| vars.values().map(|var| values(var.as_tensor())).collect::<Vec<_>>());
        let (mut slices, mut factor_slices) = (Slices::new(), Slices::new());
        for (vars, guards, slices) in [(self.all, &guards[0], &mut slices), (factors, &guards[1], &mut factor_slices)] {
            for ((name, var), guard) in vars.iter().zip(guards) {
                slices.insert(name.as_str(), (guard.slice()?, var.dims()));
            }
        }
        let factors = factor_slices;
        if self.precision == Precision::F32 {
            return run(&Open { slices, copies: None, factors, weights: *self });
        }
        // A scalar head is read in f32, and each model beside shared weights has its own.
        let is_rounded = |name: &str, dims: &[usize]| dims.len() == 2 && !name.starts_with("reward_head.");
        let matrices = slices.iter().filter(|(name, (_, dims))| is_rounded(name, dims));
        let copies = self.rounded.of(matrices.map(|(name, (numbers, dims))| (*name, *numbers, dims[1])));
        run(&Open { slices, copies: Some(&copies), factors, weights: *self })
    }
}

impl<'a> Open<'a> {
    /// A parameter's name, as it lives in the model, and its numbers.
    pub(crate) fn slice(&self, name: &str) -> Result<(&'a str, &'a [f32])> {
        let (name, (numbers, _)) = found(&self.slices, name)?;
        Ok((name, numbers))
    }

    /// A weight `[out, in]` with its adapter, ready to be multiplied.
    pub(crate) fn linear(&self, name: &str) -> Result<Linear<'a>> {
        let (name, matrix) = match self.copies {
            Some(copies) => copies.matrix(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?,
            None => {
                let (name, (numbers, dims)) = found(&self.slices, name)?;
                (name, Matrix::new(numbers, dims[dims.len() - 1], Precision::F32))
            }
        };
        Ok(Linear::new(name, matrix, self.trains(name)).with_adapter(self.low_rank(name)?))
    }

    fn low_rank(&self, name: &str) -> Result<Option<LowRank<'a>>> {
        let [a, b] = factors_of(name);
        let Some(adapter) = self.weights.adapter.filter(|_| self.factors.contains_key(a.as_str())) else {
            return Ok(None);
        };
        let precision = self.weights.precision;
        let factor = |name: &str| {
            let (name, (numbers, dims)) = found(&self.factors, name)?;
            // Small, and different after every step: rounded anew whenever it is opened.
            Ok::<_, ModelError>((name, Matrix::new(numbers, dims[1], precision)))
        };
        let ((name_a, a), (name_b, b)) = (factor(&a)?, factor(&b)?);
        Ok(Some(LowRank { names: [name_a, name_b], a, b, scale: adapter.shape().scale(), precision }))
    }

    fn trains(&self, name: &str) -> bool {
        self.weights.trainable.contains_key(name)
    }

    fn norm(&self, name: &str, eps: f32) -> Result<Norm<'a>> {
        let (name, gain) = self.slice(name)?;
        Ok(Norm::new(name, gain, eps, self.trains(name)))
    }

    /// The trunk of this shape.
    pub(crate) fn trunk(&self, shape: &Shape) -> Result<OpenTrunk<'a>> {
        Ok(OpenTrunk {
            embedding: self.slice(llama::TOKEN_EMBEDDING)?,
            trains_embedding: self.trains(llama::TOKEN_EMBEDDING),
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

fn found<'a>(slices: &Slices<'a>, name: &str) -> Result<(&'a str, Slice<'a>)> {
    let found = slices.get_key_value(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
    Ok((found.0, *found.1))
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
