//! The decoder against the trainer, and against itself.

mod kernel;
mod same_bits;
mod trainer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::quantized::GgmlDType;
use tempfile::TempDir;

use super::{Context, Entry, Limits, Model};
use crate::{architecture::Shape, token::TokenId, transformer::random_checkpoint};

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

fn context(path: &Path, limits: Limits) -> Context {
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

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    a.iter().flatten().zip(b.iter().flatten()).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}
