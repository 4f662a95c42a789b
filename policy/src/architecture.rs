//! Architectures: which numbers shape a model, and under which names its tensors lie in a file.
//!
//! A model is trainable when its architecture has a file here. Any other GGUF still serves through llama.cpp; asking
//! the trainer for it gives [`ModelError::Untrainable`] instead of a wrong gradient.

pub mod llama;

use crate::{
    checkpoint::Metadata,
    model_error::{ModelError, Result},
};

/// The numbers that shape a decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the gated feed-forward layer.
    pub ffn: usize,
    /// Leading dimensions of each head that are rotated; even, at most `head_dim`.
    pub rope_dims: usize,
    /// Base of the rotation's wavelengths.
    pub rope_theta: f32,
    /// Positions are multiplied by this before the rotation (1 over the linear scaling factor).
    pub rope_scale: f32,
    /// Added to the mean square before the root.
    pub norm_eps: f32,
    /// Tokens the model was trained for.
    pub context: usize,
    /// The unembedding is the embedding table.
    pub tied: bool,
}

impl Shape {
    /// Reads the shape from a file's metadata; `vocab_size` and `tied` come from the tensors' own shapes.
    ///
    /// # Errors
    /// When the architecture cannot be trained, or a key is absent or out of range.
    pub fn from_metadata(metadata: &Metadata, vocab_size: usize, tied: bool) -> Result<Shape> {
        let architecture = metadata.string("general.architecture")?;
        match architecture {
            "llama" => llama::shape(metadata, vocab_size, tied),
            other => Err(ModelError::Untrainable(other.to_owned())),
        }
    }

    /// A Llama shape with the usual choices: theta 10,000, eps 1e-5, all dimensions rotated, tied embeddings.
    ///
    /// `hidden` must be a multiple of `2 * n_heads`, and `n_heads` of `n_kv_heads`.
    #[must_use]
    pub fn llama(
        vocab_size: usize,
        hidden: usize,
        n_layers: usize,
        n_heads: usize,
        n_kv_heads: usize,
        ffn: usize,
    ) -> Shape {
        assert!(hidden.is_multiple_of(2 * n_heads), "hidden {hidden} must be a multiple of twice {n_heads} heads");
        assert!(n_heads.is_multiple_of(n_kv_heads), "{n_heads} heads must be a multiple of {n_kv_heads} kv heads");
        let head_dim = hidden / n_heads;
        Shape {
            vocab_size,
            hidden,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            ffn,
            rope_dims: head_dim,
            rope_theta: 10_000.0,
            rope_scale: 1.0,
            norm_eps: 1e-5,
            context: 2048,
            tied: true,
        }
    }

    /// Trainable numbers of the trunk and its language-model head.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        llama::parameters(self).iter().map(|p| p.dims.iter().product::<usize>()).sum()
    }
}
