//! A token's logits are the same bits whatever is computed beside it, and the trainer's up to the last digits.

use std::{path::PathBuf, sync::Arc};

use candle_core::{
    Device,
    quantized::{GgmlDType, gguf_file::Value},
};
use tempfile::TempDir;

use crate::{
    architecture::Shape,
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, header_of_file},
    decoder::{Adapter, Context, Entry, Limits, Model, shape_of},
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
    Limits { n_sequences: 4, n_positions: 128, n_rows: 64, n_wanted: 64, n_kept: 128, n_threads, is_f32: true }
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

/// Goal: no token reaches one before it, not even one that is no number. Method: a token whose embedding is none, in one tile with
/// those before it.
#[test]
fn a_token_that_is_no_number_spoils_none_before_it() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F32);
    let mut file = Checkpoint::read(&path).unwrap();
    let table = file.tensors.get_mut("token_embd.weight").unwrap();
    let mut rows: Vec<Vec<f32>> = table.to_vec2().unwrap();
    // Not among the first seventy.
    rows[5].fill(f32::NAN);
    *table = candle_core::Tensor::new(rows, &Device::Cpu).unwrap();
    file.write(&path).unwrap();
    let mut all = tokens(38);
    let want = one_by_one(&mut context(&path, limits(1)), 0, &all);
    for at in [30, 33, 37] {
        all[at] = TokenId(5);
        let mut context = context(&path, limits(2));
        context.compute(&entries(0, 0, &all), false);
        assert!((0..at).all(|i| context.logits(i) == want[i]), "spoilt at {at}");
        assert!((at..38).all(|i| context.logits(i).iter().all(|logit| logit.is_nan())));
        // Nor does it stay in the memory that others are given next.
        context.cut(0, 0);
        all[at] = tokens(38)[at];
        context.compute(&entries(1, 0, &all), false);
        assert!((0..38).all(|i| context.logits(i) == want[i]), "spoilt by what was there before");
    }
}

/// Goal: pages come back, whoever held them last. Method: a context that has no page to spare, through many copies, cuts and states.
#[test]
fn pages_are_never_lost() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, &shape(), GgmlDType::F16);
    let mut context = context(&path, Limits { n_kept: 64, n_wanted: 1, ..limits(1) });
    let last = |mut batch: Vec<Entry>| {
        let n = batch.len();
        batch.iter_mut().enumerate().for_each(|(i, entry)| entry.gives_logits = i + 1 == n);
        batch
    };
    let before = context.untaken_bytes();
    for _ in 0..5 {
        context.compute(&last(entries(0, 0, &tokens(50))), true);
        let kept = context.state(0);
        for i in 1..4 {
            context.copy(0, i, 40);
            context.compute(&last(entries(i, 40, &tokens(64))), true);
            context.compute(&last(entries(i, 104, &tokens(24))), true);
        }
        context.compute(&last(entries(0, 50, &tokens(64))), true);
        context.set(2, &kept);
        context.compute(&last(entries(2, 50, &tokens(64))), true);
        (0..4).for_each(|i| context.cut(i, 0));
        drop(kept);
    }
    // Four sequences of four pages, and two that are kept, beside what passes work with.
    let pass = Limits { n_kept: 64, n_wanted: 1, ..limits(1) }.footprint(&shape()).pass;
    assert!(before > context.untaken_bytes() && context.untaken_bytes() >= pass);
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
