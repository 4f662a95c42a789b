//! Names and orders of a Llama in Hugging Face's files and in GGUF.
//!
//! The rotation pairs dimension i of a head with i + d/2 in Hugging Face's models and 2i with 2i + 1 in llama.cpp's, so the
//! rows of each head's queries and keys change places: row (half, i) of the one is row (i, half) of the other.

use candle_core::{Result, Tensor};

use crate::architecture::{
    Shape,
    llama::{OUTPUT, OUTPUT_NORM, ROPE_FREQS, TOKEN_EMBEDDING, block},
};

/// One tensor under its name in GGUF.
pub(super) struct Part {
    pub(super) name: String,
    heads: Heads,
}

/// Whose rows change places.
#[derive(Clone, Copy)]
enum Heads {
    None,
    Query,
    Key,
}

/// The tensor that Hugging Face calls `name`.
pub(super) fn part_of(name: &str) -> Option<Part> {
    let plain = |name: &str| Some(Part { name: name.to_owned(), heads: Heads::None });
    match name {
        "model.embed_tokens.weight" => return plain(TOKEN_EMBEDDING),
        "model.norm.weight" => return plain(OUTPUT_NORM),
        "lm_head.weight" => return plain(OUTPUT),
        _ => {}
    }
    let (layer, what) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (what, heads) = match what.strip_suffix(".weight")? {
        "input_layernorm" => ("attn_norm", Heads::None),
        "self_attn.q_proj" => ("attn_q", Heads::Query),
        "self_attn.k_proj" => ("attn_k", Heads::Key),
        "self_attn.v_proj" => ("attn_v", Heads::None),
        "self_attn.o_proj" => ("attn_output", Heads::None),
        "post_attention_layernorm" => ("ffn_norm", Heads::None),
        "mlp.gate_proj" => ("ffn_gate", Heads::None),
        "mlp.up_proj" => ("ffn_up", Heads::None),
        "mlp.down_proj" => ("ffn_down", Heads::None),
        _ => return None,
    };
    Some(Part { name: block(layer, what), heads })
}

impl Part {
    /// Whether a tensor of GGUF is no weight.
    pub(super) fn is_constant(name: &str) -> bool {
        name == ROPE_FREQS
    }

    /// From Hugging Face's order of rows to llama.cpp's: `[heads · 2 · d/2, in]` read as `[heads, 2, d/2, in]`, the middle two
    /// exchanged.
    pub(super) fn rotated(&self, weight: Tensor, shape: &Shape) -> Result<Tensor> {
        let n_heads = match self.heads {
            Heads::None => return Ok(weight),
            Heads::Query => shape.n_heads,
            Heads::Key => shape.n_kv_heads,
        };
        let (rows, width) = weight.dims2()?; // [heads · d, in]
        let halves = weight.reshape((n_heads, 2, rows / n_heads / 2, width))?; // [heads, 2, d/2, in]
        halves.transpose(1, 2)?.contiguous()?.reshape((rows, width))
    }
}
