//! A pass over the trunk: forward keeps what backward needs, backward adds into gradients.
//!
//! Of a block forward keeps the residual stream before each half, q, k, v, what attention mixed, gate and up; norms and
//! the gated product are computed again. With [`Keep::Inputs`] it keeps one stream a block and computes the block again
//! when its turn comes (activation checkpointing): a third more arithmetic for a tenth of the memory.
//!
//! Of the last block's output only some rows are read, those before a response token or at the end of a sequence; the others are
//! needed as its keys and values and no further, so that everything behind its attention is computed for these rows alone.

use super::{
    attention::{self, AttentionLayer, AttentionShape},
    mlp::{self, MlpLayer},
    norm::Norm,
};
use crate::{
    architecture::Shape,
    kernels::{
        Rotation,
        matrix::{Matrix, Precision},
    },
    model_error::{ModelError, Result},
    optimizer::Gradients,
    sequence_batch::Packed,
};

/// What every layer of one pass shares.
pub(crate) struct Batch<'a> {
    pub(super) packed: &'a Packed,
    pub(super) rotation: Rotation,
    pub(super) shape: AttentionShape,
    pub(super) precision: Precision,
}

impl Batch<'_> {
    /// Rows of `cols` numbers as a factor of a product.
    pub(super) fn factor<'b>(&self, values: &'b [f32], cols: usize) -> Matrix<'b> {
        Matrix::new(values, cols, self.precision)
    }
}

/// What a forward pass leaves for backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: there will be no backward.
    Nothing,
    /// The stream before every block.
    Inputs,
    /// All that is dear to compute.
    All,
}

impl Keep {
    /// Bytes that one token of a forward pass leaves for backward: what the budget of a micro-batch divides by.
    #[must_use]
    pub fn bytes_per_token(self, shape: &Shape) -> usize {
        let (q, kv) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        // The stream before both halves; q, k, v, what was mixed, a log-sum a head; gate and up.
        let block = 2 * shape.hidden + 2 * q + 2 * kv + shape.n_heads + 2 * shape.ffn;
        let numbers = match self {
            Keep::Nothing => block,
            // One block at a time is computed again.
            Keep::Inputs => shape.n_layers * shape.hidden + block,
            Keep::All => shape.n_layers * block,
        };
        4 * numbers
    }
}

pub(super) struct Block<'a> {
    pub(super) attention: AttentionLayer<'a>,
    pub(super) mlp: MlpLayer<'a>,
}

enum SavedBlock {
    Input(Vec<f32>),
    Both(attention::Saved, mlp::Saved),
}

/// What a forward pass left for the backward of the same batch through the same weights.
pub struct Activations {
    blocks: Vec<SavedBlock>,
    /// The stream before the last norm.
    last: Vec<f32>,
}

/// The trunk's weights, held open.
pub(crate) struct OpenTrunk<'a> {
    pub(super) embedding: (&'a str, &'a [f32]),
    pub(super) trains_embedding: bool,
    pub(super) blocks: Vec<Block<'a>>,
    pub(super) norm: Norm<'a>,
    pub(super) hidden: usize,
}

impl<'a> OpenTrunk<'a> {
    /// Hidden states of these rows after the last norm, `[rows, hidden]`, f32, and what was kept. No row comes twice.
    pub(crate) fn forward(&self, batch: &Batch<'_>, rows: &[u32], keep: Keep) -> Result<(Vec<f32>, Activations)> {
        let mut x = self.embed(&batch.packed.ids)?;
        let mut blocks = Vec::with_capacity(if keep == Keep::Nothing { 0 } else { self.blocks.len() });
        for (i, block) in self.blocks.iter().enumerate() {
            if keep == Keep::Inputs {
                blocks.push(SavedBlock::Input(x.clone()));
            }
            let kept = block.forward(&mut x, batch, self.read_of(i, rows), keep == Keep::All);
            if let Some((attention, mlp)) = kept {
                blocks.push(SavedBlock::Both(attention, mlp));
            }
        }
        Ok((self.norm.forward_f32(&x), Activations { blocks, last: x }))
    }

    /// As [`Self::forward`], from what it kept, where that was done before.
    pub(crate) fn forward_from(
        &self,
        done: Option<Activations>,
        batch: &Batch<'_>,
        rows: &[u32],
        keep: Keep,
    ) -> Result<(Vec<f32>, Activations)> {
        match done {
            Some(kept) => Ok((self.norm.forward_f32(&kept.last), kept)),
            None => self.forward(batch, rows, keep),
        }
    }

    /// Which rows behind a block's attention are read; `None`: all.
    fn read_of<'b>(&self, block: usize, rows: &'b [u32]) -> Option<&'b [u32]> {
        (block + 1 == self.blocks.len()).then_some(rows)
    }

    /// Adds the gradients of every parameter of the trunk that learns. `g`: of the hidden states of these rows, `[rows, hidden]`.
    pub(crate) fn backward(
        &self,
        batch: &Batch<'_>,
        rows: &[u32],
        kept: Activations,
        g: &[f32],
        gradients: &mut Gradients,
    ) {
        let Activations { blocks, last } = kept;
        assert_eq!(blocks.len(), self.blocks.len(), "backward follows a forward that kept something");
        let mut dx = vec![0.0; last.len()];
        self.norm.backward(&last, g, &mut dx, gradients);
        drop(last);
        for (i, (block, saved)) in self.blocks.iter().zip(blocks).enumerate().rev() {
            let read = self.read_of(i, rows);
            let (attention, mlp) = match saved {
                SavedBlock::Both(attention, mlp) => (attention, mlp),
                SavedBlock::Input(mut x) => {
                    block.forward(&mut x, batch, read, true).expect("a pass that keeps all keeps every block")
                }
            };
            block.mlp.backward(&mlp, batch, &mut dx, gradients);
            drop(mlp);
            block.attention.backward(&attention, batch, read, &mut dx, gradients);
        }
        if !self.trains_embedding {
            return;
        }
        let (name, table) = self.embedding;
        let table = gradients.slot(name, table.len());
        for (&id, dx) in batch.packed.ids.iter().zip(dx.chunks_exact(self.hidden)) {
            let row = &mut table[id as usize * self.hidden..][..self.hidden];
            row.iter_mut().zip(dx).for_each(|(sum, &x)| *sum += x);
        }
    }

    fn embed(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let table = self.embedding.1;
        let mut x = Vec::with_capacity(ids.len() * self.hidden);
        for &id in ids {
            let start = id as usize * self.hidden;
            let row = table.get(start..start + self.hidden);
            x.extend_from_slice(row.ok_or_else(|| {
                let vocabulary = table.len() / self.hidden;
                ModelError::Batch(format!("token {id} lies outside the vocabulary of {vocabulary}"))
            })?);
        }
        Ok(x)
    }
}

impl Block<'_> {
    /// Turns the stream before the block into that behind it, of the rows that are read.
    fn forward(
        &self,
        x: &mut Vec<f32>,
        batch: &Batch<'_>,
        read: Option<&[u32]>,
        keeps: bool,
    ) -> Option<(attention::Saved, mlp::Saved)> {
        let attention = self.attention.forward(x, batch, read, keeps);
        let mlp = self.mlp.forward(x, batch, keeps);
        attention.zip(mlp)
    }
}
