//! The Llama architecture as GGUF files hold it.
//!
//! GGUF stores the query and key rows of Llama models permuted so that the rotation pairs neighbours (2i, 2i+1). The
//! trainer keeps that order: what it reads is what it trains and what it writes back, and no permutation can be forgotten.

use candle_core::quantized::gguf_file::Value;

use super::Shape;
use crate::{
    checkpoint::Metadata,
    model_error::{ModelError, Result},
};

/// How a parameter of a new model starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All ones: the gains of norms.
    Ones,
    /// N(0, std).
    Normal(f32),
}

/// Name, dimensions and start of one trainable tensor.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name in the file.
    pub name: String,
    /// Rows first: `[out, in]`.
    pub dims: Vec<usize>,
    /// How it starts in a model from nothing.
    pub init: Init,
}

/// llama.cpp's code of a file whose tensors are all f32.
pub const FILE_TYPE_F32: u32 = 0;
/// llama.cpp's code of a file whose matrices are f16.
pub const FILE_TYPE_F16: u32 = 1;
/// The embedding table.
pub const TOKEN_EMBEDDING: &str = "token_embd.weight";
/// The unembedding of models that do not tie it.
pub const OUTPUT: &str = "output.weight";
/// The last norm.
pub const OUTPUT_NORM: &str = "output_norm.weight";
/// Per-dimension divisors of the rotation's frequencies (Llama 3.1 and later); frozen.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// Name of a tensor of block `layer`, for example `blk.3.attn_q.weight`.
#[must_use]
pub fn block(layer: usize, what: &str) -> String {
    format!("blk.{layer}.{what}.weight")
}

/// Every trainable tensor of a shape. Start values follow GPT-2: N(0, 0.02), and the two matrices that write into the
/// residual stream divided by sqrt(2 layers), so that its variance does not grow with depth.
#[must_use]
pub fn parameters(shape: &Shape) -> Vec<Parameter> {
    let (d, q, kv) = (shape.hidden, shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
    let residual = Init::Normal(0.02 / (2.0 * shape.n_layers.max(1) as f32).sqrt());
    let normal = Init::Normal(0.02);
    let mut all = vec![
        Parameter { name: TOKEN_EMBEDDING.to_owned(), dims: vec![shape.vocab_size, d], init: normal },
        Parameter { name: OUTPUT_NORM.to_owned(), dims: vec![d], init: Init::Ones },
    ];
    if !shape.tied {
        all.push(Parameter { name: OUTPUT.to_owned(), dims: vec![shape.vocab_size, d], init: normal });
    }
    for layer in 0..shape.n_layers {
        for (what, dims, init) in [
            ("attn_norm", vec![d], Init::Ones),
            ("attn_q", vec![q, d], normal),
            ("attn_k", vec![kv, d], normal),
            ("attn_v", vec![kv, d], normal),
            ("attn_output", vec![d, q], residual),
            ("ffn_norm", vec![d], Init::Ones),
            ("ffn_gate", vec![shape.ffn, d], normal),
            ("ffn_up", vec![shape.ffn, d], normal),
            ("ffn_down", vec![d, shape.ffn], residual),
        ] {
            all.push(Parameter { name: block(layer, what), dims, init });
        }
    }
    all
}

/// Reads a Llama shape; refuses what the trunk does not compute (experts, YaRN, per-layer head counts).
///
/// # Errors
/// When a key is absent, out of range, or names such a variant.
pub fn shape(metadata: &Metadata, vocab_size: usize, tied: bool) -> Result<Shape> {
    refuse_variants(metadata)?;
    let hidden = metadata.usize("llama.embedding_length")?;
    let n_heads = metadata.usize("llama.attention.head_count")?;
    let n_kv_heads = metadata.usize_or("llama.attention.head_count_kv", n_heads)?;
    if n_heads == 0 || n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
        return Err(ModelError::Unsupported(format!("{n_heads} query heads over {n_kv_heads} key heads")));
    }
    let head_dim = metadata.usize_or("llama.attention.key_length", hidden / n_heads)?;
    // What comes later multiplies these again, and compares with tensors that a file can hold.
    if n_heads.checked_mul(head_dim).is_none() {
        return Err(ModelError::Unsupported(format!("{n_heads} heads of {head_dim}")));
    }
    if metadata.usize_or("llama.attention.value_length", head_dim)? != head_dim {
        return Err(ModelError::Unsupported("keys and values of different width".to_owned()));
    }
    let rope_dims = metadata.usize_or("llama.rope.dimension_count", head_dim)?;
    // llama.cpp refuses any other number for this architecture.
    if !rope_dims.is_multiple_of(2) || rope_dims != head_dim {
        return Err(ModelError::Unsupported(format!("{rope_dims} rotated dimensions of {head_dim}")));
    }
    Ok(Shape {
        vocab_size,
        hidden,
        n_layers: metadata.usize("llama.block_count")?,
        n_heads,
        n_kv_heads,
        head_dim,
        ffn: metadata.usize("llama.feed_forward_length")?,
        rope_dims,
        rope_theta: metadata.f32_or("llama.rope.freq_base", 10_000.0)?,
        rope_scale: rope_scale(metadata)?,
        norm_eps: metadata.f32_or("llama.attention.layer_norm_rms_epsilon", 1e-5)?,
        context: metadata.usize_or("llama.context_length", 2048)?,
        tied,
    })
}

fn refuse_variants(metadata: &Metadata) -> Result<()> {
    if metadata.usize_or("llama.expert_count", 0)? > 0 {
        return Err(ModelError::Unsupported("mixture of experts".to_owned()));
    }
    for key in [
        "llama.attention.sliding_window",
        "llama.attention.scale",
        "llama.logit_scale",
        "llama.residual_scale",
        "llama.rope.scaling.attn_factor",
    ] {
        if metadata.get(key).is_some() {
            return Err(ModelError::Unsupported(format!("metadata key {key}")));
        }
    }
    if metadata.usize_or("split.count", 1)? > 1 {
        return Err(ModelError::Unsupported("weights split over several files".to_owned()));
    }
    Ok(())
}

/// As llama.cpp reads it: linear where nothing is said, by the newer key or else the older one, and 0 is none.
fn rope_scale(metadata: &Metadata) -> Result<f32> {
    match metadata.get("llama.rope.scaling.type") {
        Some(Value::String(kind)) if kind == "none" => return Ok(1.0),
        Some(Value::String(kind)) if kind == "linear" => {}
        None => {}
        Some(other) => return Err(ModelError::Unsupported(format!("rope scaling {other:?}"))),
    }
    let older = metadata.f32_or("llama.rope.scale_linear", 0.0)?;
    let factor = metadata.f32_or("llama.rope.scaling.factor", older)?;
    Ok(if factor == 0.0 { 1.0 } else { 1.0 / factor })
}

/// The metadata that llama.cpp needs to load a model of this shape (without its vocabulary).
#[must_use]
pub fn metadata(shape: &Shape) -> Metadata {
    let int = |v: usize| Value::U32(u32::try_from(v).expect("a shape fits 32 bits"));
    let mut m = Metadata::default();
    m.set("general.architecture", Value::String("llama".to_owned()));
    m.set("general.file_type", Value::U32(FILE_TYPE_F32));
    m.set("llama.vocab_size", int(shape.vocab_size));
    m.set("llama.context_length", int(shape.context));
    m.set("llama.embedding_length", int(shape.hidden));
    m.set("llama.block_count", int(shape.n_layers));
    m.set("llama.feed_forward_length", int(shape.ffn));
    m.set("llama.attention.head_count", int(shape.n_heads));
    m.set("llama.attention.head_count_kv", int(shape.n_kv_heads));
    m.set("llama.attention.key_length", int(shape.head_dim));
    m.set("llama.attention.value_length", int(shape.head_dim));
    m.set("llama.attention.layer_norm_rms_epsilon", Value::F32(shape.norm_eps));
    m.set("llama.rope.dimension_count", int(shape.rope_dims));
    m.set("llama.rope.freq_base", Value::F32(shape.rope_theta));
    if shape.rope_scale != 1.0 {
        m.set("llama.rope.scaling.type", Value::String("linear".to_owned()));
        m.set("llama.rope.scaling.factor", Value::F32(1.0 / shape.rope_scale));
    }
    m
}
