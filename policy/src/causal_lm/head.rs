//! The unembedding and the log-probs behind it, some rows at a time, forward alone or with the gradient in the same pass.
//!
//! Rows of logits live for as long as their chunk does: they are computed, read, and where a loss wants a gradient turned
//! into d logits at once, from which the gradients of the hidden states and of the unembedding follow. So memory is bounded
//! by [`CHUNK_BYTES`], no logit is computed twice, and nothing of size tokens × vocabulary exists (Liger and Apple's
//! cut-cross-entropy, arXiv 2411.09009, work the same way).

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use crate::{
    kernels::{
        log_prob::{self, RowLogProb},
        matrix::{Matrix, Number, Precision, Values},
    },
    model_error::Result,
    optimizer::Gradients,
    transformer::Linear,
};

/// Bytes that the logits of one chunk may take.
pub(crate) const CHUNK_BYTES: usize = 24 << 20;

/// What a loss is told of some neighbouring response tokens.
#[derive(Clone, Debug)]
pub struct HeadRows<'a> {
    /// Which tokens of the batch, in its flat order.
    pub range: Range<usize>,
    /// ℓ of each, nats.
    pub log_probs: &'a [f32],
    /// Entropy of the distribution before each, nats.
    pub entropies: &'a [f32],
}

/// What it answers: the slopes of the loss in them.
#[derive(Clone, Debug, Default)]
pub struct HeadSlopes {
    /// d loss / d ℓ of each token.
    pub log_probs: Vec<f32>,
    /// d loss / d H before each token; empty: none.
    pub entropies: Vec<f32>,
}

/// Tokens to be read from rows of hidden states.
pub(super) struct Head<'a> {
    pub(super) linear: &'a Linear<'a>,
    /// `[n, hidden]`, f32.
    pub(super) hidden: &'a [f32],
    pub(super) width: usize,
    pub(super) targets: &'a [u32],
    pub(super) temperatures: &'a [f64],
    pub(super) precision: Precision,
}

impl Head<'_> {
    /// Calls `read` with every chunk's log-probs and entropies.
    pub(super) fn forward(&self, mut read: impl FnMut(HeadRows<'_>)) {
        for range in self.chunks() {
            let logits = self.linear.forward(&self.factor(&range));
            self.read(&logits, &range, &mut read);
        }
    }

    /// As [`Self::forward`], with the gradient of a loss whose slopes `loss` says; returns d hidden, `[n, hidden]`.
    pub(super) fn backward(
        &self,
        loss: &mut dyn FnMut(HeadRows<'_>) -> Result<HeadSlopes>,
        gradients: &mut Gradients,
    ) -> Result<Vec<f32>> {
        let mut d_hidden = Vec::with_capacity(self.hidden.len());
        for range in self.chunks() {
            let hidden = self.factor(&range);
            let logits = self.linear.forward(&hidden);
            let mut slopes = Ok(HeadSlopes::default());
            let rows = self.read(&logits, &range, |rows| slopes = loss(rows));
            let g = self.slopes(&logits, &range, &rows, &slopes?);
            drop(logits);
            d_hidden.extend(self.linear.backward_input(&g));
            self.linear.backward_weight(&hidden, &g, gradients);
        }
        Ok(d_hidden)
    }

    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.targets.len();
        let step = (CHUNK_BYTES / (4 * self.linear.n_out())).max(1);
        (0..n).step_by(step).map(move |start| start..(start + step).min(n))
    }

    fn factor(&self, range: &Range<usize>) -> Matrix<'_> {
        let hidden = &self.hidden[range.start * self.width..range.end * self.width];
        Matrix::new(hidden, self.width, self.precision)
    }

    fn read(&self, logits: &[f32], range: &Range<usize>, then: impl FnOnce(HeadRows<'_>)) -> Vec<RowLogProb> {
        let vocab = self.linear.n_out();
        let row = |i: usize| {
            let token = range.start + i;
            let inverse = (1.0 / self.temperatures[token]) as f32;
            log_prob::forward(&logits[i * vocab..][..vocab], self.targets[token] as usize, inverse)
        };
        let rows: Vec<RowLogProb> = (0..range.len()).into_par_iter().map(row).collect();
        let log_probs: Vec<f32> = rows.iter().map(|r| r.log_prob).collect();
        let entropies: Vec<f32> = rows.iter().map(|r| r.entropy).collect();
        then(HeadRows { range: range.clone(), log_probs: &log_probs, entropies: &entropies });
        rows
    }

    /// d logits, `[n, vocab]`, as a factor.
    fn slopes(
        &self,
        logits: &[f32],
        range: &Range<usize>,
        rows: &[RowLogProb],
        slopes: &HeadSlopes,
    ) -> Matrix<'static> {
        assert_eq!(slopes.log_probs.len(), rows.len(), "a loss gives one slope per token");
        let (n, cols) = (rows.len(), self.linear.n_out());
        let values = match self.precision {
            Precision::F32 => Values::F32(self.fill::<f32>(logits, range, rows, slopes).into()),
            Precision::Bf16 => Values::Bf16(self.fill::<bf16>(logits, range, rows, slopes).into()),
        };
        Matrix { rows: n, cols, values }
    }

    fn fill<N: Number>(
        &self,
        logits: &[f32],
        range: &Range<usize>,
        rows: &[RowLogProb],
        slopes: &HeadSlopes,
    ) -> Vec<N> {
        let vocab = self.linear.n_out();
        let mut out = vec![N::default(); logits.len()];
        out.par_chunks_mut(vocab).enumerate().for_each(|(i, out)| {
            let token = range.start + i;
            let (target, inverse) = (self.targets[token] as usize, (1.0 / self.temperatures[token]) as f32);
            let slopes = (slopes.log_probs[i], slopes.entropies.get(i).copied().unwrap_or(0.0));
            log_prob::backward(&logits[i * vocab..][..vocab], target, inverse, rows[i], slopes, out);
        });
        out
    }
}
