//! A low-rank adapter beside weights that other versions compute with too.

use std::path::Path;

use super::{
    model::{LAYERS, Model, Tensors},
    numbers::PANEL,
    panels::Panels,
};
use crate::{
    architecture::llama,
    checkpoint::{
        gguf::{Header, Place},
        header_of_file,
    },
    model_error::{ModelError, Result},
    transformer::factors_of,
};

/// Key of the numerator of the factor that updates are multiplied by.
const ALPHA: &str = "adapter.lora.alpha";

/// The two factors of a layer: it computes x·Wᵀ + (x·Aᵀ)·Bᵀ.
#[derive(Debug)]
pub(super) struct LowRank {
    /// `[rank, in]`.
    pub(super) a: Panels,
    /// `[out, rank]`, multiplied by alpha / rank.
    pub(super) b: Panels,
}

/// An adapter in memory (LoRA, arXiv 2106.09685).
#[derive(Debug)]
pub(crate) struct Adapter {
    /// Those of each block, in the order of [`LAYERS`].
    blocks: Vec<[Option<LowRank>; LAYERS.len()]>,
    rank: usize,
}

/// Bytes of the matrices of an adapter's file in memory: panels of f32, whatever they are there.
pub(crate) fn adapter_bytes(header: &Header) -> u64 {
    let bytes = |place: &Place| match place.dims[..] {
        [n_out, n_in] => n_out.next_multiple_of(PANEL as u64).saturating_mul(n_in).saturating_mul(4),
        _ => 0,
    };
    header.tensors.values().map(bytes).fold(0, u64::saturating_add)
}

impl Adapter {
    /// Reads an adapter's file.
    ///
    /// # Errors
    /// When the file cannot be read, or is no adapter of this model's layers.
    pub(crate) fn load(path: &Path, model: &Model) -> Result<Adapter> {
        let header = header_of_file(path)?;
        let alpha = header.metadata.f64(ALPHA)? as f32;
        let mut file = Tensors::open(path, &header)?;
        let (mut blocks, mut rank, mut n_factors) = (Vec::new(), 0, 0);
        for (layer, block) in model.blocks.iter().enumerate() {
            let mut adapted = [const { None }; LAYERS.len()];
            for (which, what) in LAYERS.iter().enumerate() {
                let weight = llama::block(layer, what);
                let [a, b] = factors_of(&weight);
                if !header.tensors.contains_key(&a) && !header.tensors.contains_key(&b) {
                    continue;
                }
                let base = &block.layers[which];
                let low_rank = file.low_rank([&a, &b], [base.n_out(), base.n_in()], alpha)?;
                rank = rank.max(low_rank.a.n_out());
                adapted[which] = Some(low_rank);
                n_factors += 2;
            }
            blocks.push(adapted);
        }
        if n_factors == 0 || n_factors != header.tensors.len() {
            return Err(ModelError::Unsupported("an adapter of nothing, or of more than a Llama's layers".to_owned()));
        }
        Ok(Adapter { blocks, rank })
    }

    /// The largest of its layers.
    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn layer(&self, layer: usize, which: usize) -> Option<&LowRank> {
        self.blocks[layer][which].as_ref()
    }
}

impl Tensors<'_> {
    fn low_rank(&mut self, [a, b]: [&str; 2], [n_out, n_in]: [usize; 2], alpha: f32) -> Result<LowRank> {
        let (first, second) = (self.numbers(a)?, self.numbers(b)?);
        let rank = first.0[0];
        for (name, got, expected) in [(a, first.0, [rank, n_in]), (b, second.0, [n_out, rank])] {
            if got != expected || rank == 0 {
                let (expected, got) = (expected.to_vec(), got.to_vec());
                return Err(ModelError::TensorShape { name: name.to_owned(), expected, got });
            }
        }
        let scale = alpha / rank as f32;
        let scaled: Vec<f32> = second.1.iter().map(|number| number * scale).collect();
        Ok(LowRank { a: Panels::of_f32(first.0, &first.1), b: Panels::of_f32(second.0, &scaled) })
    }

    /// A matrix as floats, whatever type it has.
    fn numbers(&mut self, name: &str) -> Result<([usize; 2], Vec<f32>)> {
        let matrix = self.matrix(name)?;
        let mut numbers = vec![0.0; matrix.n_out() * matrix.n_in()];
        for (i, row) in numbers.chunks_exact_mut(matrix.n_in().max(1)).enumerate() {
            matrix.row(i, row);
        }
        Ok(([matrix.n_out(), matrix.n_in()], numbers))
    }
}
