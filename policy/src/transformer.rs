//! The decoder trunk, once, for policy, reference, reward model and value model.
//!
//! The trunk turns packed tokens into hidden states; what is read from them (log-probs, a scalar) is the caller's head.
//! Weights stay in the order of the GGUF file. A pass either tracks gradients or not ([`Pass`]): a frozen pass uses
//! detached views of the same storage, so no graph keeps its activations alive.

mod attention;
mod mlp;
mod norm;
mod rope;
mod weights;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

pub use attention::AttentionShape;
pub use weights::{Weight, random_checkpoint};
pub(crate) use weights::{normal, variable as weights_of};

use crate::{
    architecture::{Shape, llama},
    checkpoint::Checkpoint,
    model_error::Result,
    sequence_batch::Packed,
    transformer::{attention::Attention, mlp::Mlp, norm::RmsNorm, rope::Rope},
};

/// Whether a forward pass records what backward needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Gradients reach every parameter.
    Train,
    /// No graph: old, reference and value passes.
    Frozen,
}

struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

/// Embedding, decoder blocks, last norm.
pub struct Transformer {
    shape: Shape,
    embedding: Weight,
    blocks: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
    parameters: BTreeMap<String, Var>,
}

impl Transformer {
    /// Takes the trunk's tensors from a checkpoint; heads in it are left alone.
    ///
    /// # Errors
    /// When the architecture cannot be trained, or a tensor is absent or has another shape than the metadata says.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Transformer> {
        let shape = weights::shape_of(checkpoint)?;
        let parameters = weights::load(checkpoint, &shape, device)?;
        let rope = Rope::new(&shape, checkpoint.tensors.get(llama::ROPE_FREQS))?;
        Self::assemble(shape, parameters, rope)
    }

    /// Random weights, as training from nothing starts; the same seed gives the same weights on every machine.
    ///
    /// # Errors
    /// When memory or the device fails.
    pub fn random(shape: &Shape, seed: u64, device: &Device) -> Result<Transformer> {
        Self::from_checkpoint(&random_checkpoint(shape, seed)?, device)
    }

    fn assemble(shape: Shape, parameters: BTreeMap<String, Var>, rope: Rope) -> Result<Transformer> {
        let blocks = (0..shape.n_layers)
            .map(|layer| {
                let norm = |what| RmsNorm::new(&parameters, &llama::block(layer, what), &shape);
                Ok(Block {
                    attention_norm: norm("attn_norm")?,
                    attention: Attention::new(&parameters, layer, &shape)?,
                    mlp_norm: norm("ffn_norm")?,
                    mlp: Mlp::new(&parameters, layer)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Transformer {
            embedding: Weight::named(&parameters, llama::TOKEN_EMBEDDING)?,
            norm: RmsNorm::new(&parameters, llama::OUTPUT_NORM, &shape)?,
            blocks,
            rope,
            shape,
            parameters,
        })
    }

    /// Hidden states after the last norm, `[n_tokens, hidden]`, f32.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary or the device fails.
    pub fn hidden(&self, packed: &Packed, pass: Pass) -> Result<Tensor> {
        let ids = Tensor::new(packed.ids.as_slice(), self.device())?; // [n_tokens]
        let rotation = self.rope.rotation(packed);
        let mut x = self.embedding.get(pass).index_select(&ids, 0)?; // [n_tokens, hidden]
        for block in &self.blocks {
            let normed = block.attention_norm.forward(&x, pass)?;
            x = (x + block.attention.forward(&normed, packed, &rotation, pass)?)?;
            let normed = block.mlp_norm.forward(&x, pass)?;
            x = (x + block.mlp.forward(&normed, pass)?)?;
        }
        self.norm.forward(&x, pass)
    }

    /// The trainable tensors by GGUF name.
    #[must_use]
    pub fn parameters(&self) -> &BTreeMap<String, Var> {
        &self.parameters
    }

    /// The numbers that shape it.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Where its weights lie.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.embedding.get(Pass::Frozen).device()
    }

    /// The embedding table, which tied models also use as unembedding.
    pub(crate) fn embedding(&self) -> &Weight {
        &self.embedding
    }
}

#[cfg(test)]
pub(crate) mod tests;
