//! The decoder computes what the trainer does, up to the last digits, and leaves alone what it would compute otherwise.

use std::sync::Arc;

use candle_core::{
    Device,
    quantized::{GgmlDType, gguf_file::Value},
};
use tempfile::TempDir;

use super::{context, entries, largest_difference, limits, shape, tokens, write};
use crate::{
    architecture::Shape,
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, header_of_file},
    decoder::{Adapter, Context, Model, shape_of},
    token::TokenId,
    transformer::{self, LoraShape},
};

fn trainer(lm: &CausalLm, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    lm.logits(tokens).unwrap().to_vec2().unwrap()
}

/// Goal: the decoder computes the trainer's transformer. Method: logits of both from the same file, of every type, tied and not,
/// with a head as wide as a panel and narrower ones, and with frequencies that the file divides.
#[test]
fn logits_are_the_trainers() {
    let folder = TempDir::new().unwrap();
    let wide = Shape { tied: true, rope_scale: 0.5, ..Shape::llama(75, 128, 2, 4, 1, 96) };
    let wider = Shape { head_dim: 64, rope_dims: 64, ..shape() };
    // More heads to a key head than rows in a tile, heads and a stream that fill no panel.
    let odd = Shape { hidden: 84, head_dim: 40, rope_dims: 40, ..Shape::llama(75, 84, 2, 14, 1, 96) };
    for (shape, kind) in [
        (shape(), GgmlDType::F32),
        (shape(), GgmlDType::F16),
        (shape(), GgmlDType::BF16),
        (shape(), GgmlDType::Q8_0),
        (wide, GgmlDType::F32),
        (wider, GgmlDType::Q8_0),
        (odd, GgmlDType::F16),
    ] {
        let path = write(&folder, &shape, kind);
        let lm = CausalLm::from_checkpoint(&Checkpoint::read(&path).unwrap(), &Device::Cpu).unwrap();
        let (tokens, mut context) = (tokens(50), context(&path, limits(2)));
        context.compute(&entries(1, 0, &tokens), false);
        let got: Vec<Vec<f32>> = (0..tokens.len()).map(|at| context.logits(at).to_vec()).collect();
        let want = trainer(&lm, &tokens);
        let spread = want.iter().flatten().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(spread > 1.0, "{kind:?}: logits of {spread} tell nothing");
        let difference = largest_difference(&got, &want);
        assert!(difference < 2e-5 * spread, "{kind:?}: {difference} of {spread}");
        context.cut(1, 0);
        context.compute(&entries(1, 0, &tokens[..1]), false);
        assert_eq!(context.logits(0), &got[0], "what a sequence held before is gone");
    }
}

/// Goal: a file that promises more heads than numbers are, or what llama.cpp would compute otherwise, is not the decoder's. Method:
/// the products of the first are those of an honest file but for what does not fit into 64 bits.
#[test]
fn files_that_the_decoder_leaves_alone() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &Shape::llama(75, 64, 1, 1, 1, 64), GgmlDType::F32);
    let why = |key: &str, value: Value| {
        let mut file = Checkpoint::read(&path).unwrap();
        file.metadata.set(key, value);
        let path = folder.path().join("other.gguf");
        file.write(&path).unwrap();
        shape_of(&header_of_file(&path).unwrap()).map(drop)
    };
    why("llama.rope.freq_base", Value::F32(500.0)).unwrap();
    let heads = why("llama.attention.head_count", Value::U64((1 << 58) + 1)).unwrap_err();
    assert!(heads.contains("288230376151711745 heads of 64"), "{heads}");
    for (key, value) in [
        ("llama.rope.scaling.attn_factor", Value::F32(2.0)),
        ("llama.attention.causal", Value::Bool(false)),
        ("llama.anything.new", Value::U32(1)),
    ] {
        let reason = why(key, value).unwrap_err();
        assert!(reason.contains(key), "{reason}");
    }
}

/// Goal: an adapter computes what the trainer's does. Method: factors that change the logits much.
#[test]
fn adapters_are_the_trainers() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F16);
    let base = Checkpoint::read(&path).unwrap();
    let lora = LoraShape { rank: 5, alpha: 20.0 };
    let adapter = transformer::Adapter::new(&shape(), lora, 1, &Device::Cpu).unwrap();
    for (i, (name, factor)) in adapter.parameters().iter().enumerate() {
        if name.ends_with(".lora_b") {
            let filled = candle_core::Tensor::rand(-0.2f32, 0.2, factor.dims(), &Device::Cpu).unwrap();
            factor.set(&(filled * (1.0 + i as f64 / 50.0)).unwrap()).unwrap();
        }
    }
    // One layer has none in the file, and in the trainer one that does nothing.
    let absent = "blk.1.ffn_up.weight";
    let factor = &adapter.parameters()[&format!("{absent}.lora_b")];
    factor.set(&factor.zeros_like().unwrap()).unwrap();
    let file = folder.path().join("adapter.gguf");
    let mut partial = adapter.to_checkpoint(&base.metadata).unwrap();
    partial.tensors.retain(|name, _| !name.starts_with(absent));
    partial.write(&file).unwrap();
    let plain = CausalLm::from_checkpoint(&base, &Device::Cpu).unwrap();
    let (tokens, without) = (tokens(12), trainer(&plain, &tokens(12)));
    let want = trainer(&plain.with_adapter(adapter), &tokens);
    let model = Arc::new(Model::load(&path).unwrap());
    let adapter = Arc::new(Adapter::load(&file, &model).unwrap());
    let mut context = Context::new(model, Some(adapter), limits(2)).unwrap();
    context.compute(&entries(0, 0, &tokens), false);
    let got: Vec<Vec<f32>> = (0..tokens.len()).map(|at| context.logits(at).to_vec()).collect();
    assert!(largest_difference(&without, &want) > 0.5, "the adapter changes something");
    assert!(largest_difference(&got, &want) < 1e-4, "{}", largest_difference(&got, &want));
}
