//! A token's logits are the same bits whatever is computed beside it, and the trainer's up to the last digits.

use std::{path::PathBuf, sync::Arc};

use candle_core::{Device, quantized::GgmlDType};
use tempfile::TempDir;

use crate::{
    architecture::Shape,
    causal_lm::CausalLm,
    checkpoint::Checkpoint,
    decoder::{Adapter, Context, Entry, Limits, Model},
    token::TokenId,
    transformer::{self, LoraShape, random_checkpoint},
};

/// Three query heads to a key head, widths that fill no panel, more tokens than a panel.
fn shape() -> Shape {
    Shape { tied: false, rope_theta: 500.0, ..Shape::llama(75, 96, 2, 6, 2, 160) }
}

/// Writes a model whose logits are far from flat.
fn write(folder: &TempDir, shape: &Shape, kind: GgmlDType) -> PathBuf {
    let mut model = random_checkpoint(shape, 3).unwrap();
    for (name, tensor) in &mut model.tensors {
        if tensor.rank() == 2 {
            *tensor = (tensor.clone() * 6.0).unwrap();
            model.types.insert(name.clone(), kind);
        }
    }
    let path = folder.path().join(format!("{kind:?}.gguf"));
    model.write(&path).unwrap();
    path
}

fn limits(n_threads: usize) -> Limits {
    Limits { n_sequences: 4, n_positions: 128, n_rows: 64, n_threads, is_f32: true }
}

fn context(path: &std::path::Path, limits: Limits) -> Context {
    Context::new(Arc::new(Model::load(path).unwrap()), None, limits).unwrap()
}

fn tokens(n: usize) -> Vec<TokenId> {
    (0..n).map(|i| TokenId((i * 29 % 75) as u32)).collect()
}

fn entries(sequence: usize, start: usize, tokens: &[TokenId]) -> Vec<Entry> {
    let entry =
        |(i, token): (usize, &TokenId)| Entry { token: *token, sequence, position: start + i, gives_logits: true };
    tokens.iter().enumerate().map(entry).collect()
}

/// Logits of all tokens of a sequence that is computed alone, a token a pass, on one thread.
fn one_by_one(context: &mut Context, sequence: usize, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        context.compute(&entries(sequence, i, &[*token]), true);
        rows.push(context.logits(0).to_vec());
    }
    rows
}

fn trainer(lm: &CausalLm, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    lm.logits(tokens).unwrap().to_vec2().unwrap()
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    a.iter().flatten().zip(b.iter().flatten()).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// Goal: the decoder computes the trainer's transformer. Method: logits of both from the same file, of every type, tied and not,
/// with a head as wide as a panel and narrower ones, and with frequencies that the file divides.
#[test]
fn logits_are_the_trainers() {
    let folder = TempDir::new().unwrap();
    let wide = Shape { tied: true, rope_scale: 0.5, ..Shape::llama(75, 128, 2, 4, 1, 96) };
    for (shape, kind) in [
        (shape(), GgmlDType::F32),
        (shape(), GgmlDType::F16),
        (shape(), GgmlDType::BF16),
        (shape(), GgmlDType::Q8_0),
        (wide, GgmlDType::F32),
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

/// Goal: keys and values in f16 cost what f16 does, and no more.
#[test]
fn a_cache_in_f16_is_close() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F16);
    let (tokens, mut contexts) =
        (tokens(50), [true, false].map(|is_f32| context(&path, Limits { is_f32, ..limits(1) })));
    let rows = contexts.each_mut().map(|context| one_by_one(context, 0, &tokens));
    let difference = largest_difference(&rows[0], &rows[1]);
    assert!(difference > 0.0 && difference < 1e-2, "{difference}");
}

/// Goal: a token's logits are the same bits alone and in a batch, in one chunk and in many, on one thread and on three, computed,
/// copied and taken back. Method: a sequence of 70 tokens, three pages, in each of these ways.
#[test]
fn bits_depend_on_the_sequence_alone() {
    let folder = TempDir::new().unwrap();
    for kind in [GgmlDType::F16, GgmlDType::Q8_0] {
        let path = write(&folder, &shape(), kind);
        let all = tokens(70);
        let want = one_by_one(&mut context(&path, limits(1)), 0, &all);
        for n_threads in [1, 3] {
            let mut context = context(&path, limits(n_threads));
            // In chunks of 23, beside another sequence that is a token ahead.
            context.compute(&entries(2, 0, &all[3..4]), false);
            for (i, chunk) in all.chunks(23).enumerate() {
                let mut batch = entries(2, 1 + i, &all[9 + i..10 + i]);
                batch.extend(entries(0, i * 23, chunk));
                context.compute(&batch, false);
                for k in 0..chunk.len() {
                    assert_eq!(context.logits(1 + k), want[i * 23 + k], "{kind:?}, token {}", i * 23 + k);
                }
            }
            // Another one begins with what it held, in the middle of a page, and goes on; so does the first.
            context.copy(0, 1, 41);
            let mut batch = entries(0, 70, &all[..2]);
            batch.extend(entries(1, 41, &all[41..60]));
            context.compute(&batch, false);
            assert_eq!(context.logits(2 + 18), want[59], "{kind:?}: after a copy");
            // What is kept outlives the sequence, and is not what others write.
            let state = context.state(1);
            context.cut(1, 0);
            context.compute(&entries(1, 0, &all[20..40]), false);
            context.set(3, &state);
            context.compute(&entries(3, 60, &all[60..]), false);
            assert_eq!(context.logits(9), want[69], "{kind:?}: taken back");
            context.cut(3, 33);
            context.compute(&entries(3, 33, &all[33..34]), false);
            assert_eq!(context.logits(0), want[33], "{kind:?}: cut");
        }
    }
}

/// Goal: only the rows that are asked for are computed to the end, and they are what they are among all.
#[test]
fn rows_that_nobody_asks_for_change_nothing() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F32);
    let all = tokens(20);
    let want = one_by_one(&mut context(&path, limits(1)), 0, &all);
    let mut context = context(&path, limits(2));
    let mut batch = entries(0, 0, &all);
    batch.iter_mut().enumerate().for_each(|(i, entry)| entry.gives_logits = i == 4 || i == 19);
    context.compute(&batch, false);
    assert_eq!((context.logits(4), context.logits(19)), (&want[4][..], &want[19][..]));
    batch = entries(0, 20, &all[..5]);
    batch.iter_mut().for_each(|entry| entry.gives_logits = false);
    context.compute(&batch, false);
    context.compute(&entries(1, 0, &all[..1]), false);
    assert_eq!(context.logits(0), want[0]);
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
    let file = folder.path().join("adapter.gguf");
    adapter.to_checkpoint(&base.metadata).unwrap().write(&file).unwrap();
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
