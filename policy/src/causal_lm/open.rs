//! The language model opened for passes.

use candle_core::Tensor;

use super::{
    CausalLm, ResponseLogProbs,
    head::{Head, HeadRows, HeadSlopes},
};
use crate::{
    kernels::Operations,
    model_error::Result,
    optimizer::Gradients,
    sequence_batch::SequenceBatch,
    transformer::{Keep, Linear, OpenTrunk, Pass},
};

/// A language model whose weights are held open: any number of passes, from any number of threads.
pub struct OpenLm<'a> {
    lm: &'a CausalLm,
    /// Absent on a GPU, whose pass is on candle's tape.
    open: Option<(OpenTrunk<'a>, Linear<'a>)>,
    keep: Keep,
}

impl CausalLm {
    /// Opens the weights for the passes in `run`; nothing may change them meanwhile.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn open<R>(&self, run: impl FnOnce(&OpenLm<'_>) -> Result<R>) -> Result<R> {
        if !self.trunk.device().is_cpu() {
            return run(&OpenLm { lm: self, open: None, keep: Keep::All });
        }
        self.weights().open(|open| {
            let parts = (open.trunk(self.trunk.shape())?, open.linear(self.head_name())?);
            run(&OpenLm { lm: self, open: Some(parts), keep: self.keep })
        })
    }
}

impl OpenLm<'_> {
    /// Log-probs and entropies of all response tokens, without gradients.
    ///
    /// # Errors
    /// When the batch is empty, a temperature is missing or not positive, or a token lies outside the vocabulary.
    pub fn log_probs(&self, batch: &SequenceBatch, temperatures: &[f32]) -> Result<ResponseLogProbs> {
        let Some((trunk, linear)) = &self.open else {
            let operations = self.lm.operations()?;
            let (log_probs, entropies) = self.lm.log_probs_on_tape(batch, temperatures, Pass::Frozen, operations)?;
            return Ok(ResponseLogProbs { log_probs: log_probs.to_vec1()?, entropies: entropies.to_vec1()? });
        };
        let mut out = ResponseLogProbs::default();
        let (targets, temperatures) = self.lm.targets(batch, temperatures)?;
        let packed = batch.packed_inputs();
        let (hidden, _) = trunk.forward(self.lm.trunk.batch(&packed, self.lm.precision), Keep::Nothing)?;
        let hidden = self.select(&hidden, &batch.prediction_rows());
        self.head(linear, &hidden, &targets, &temperatures).forward(|rows| {
            out.log_probs.extend_from_slice(rows.log_probs);
            out.entropies.extend_from_slice(rows.entropies);
        });
        Ok(out)
    }

    /// Forward and backward in one: `loss` is told log-probs and entropies of the response tokens, some at a time and in
    /// their order, and says the slopes of the loss in them; the gradients of every parameter are added to `gradients`.
    ///
    /// # Errors
    /// As [`Self::log_probs`], and those of `loss`.
    pub fn backward(
        &self,
        batch: &SequenceBatch,
        temperatures: &[f32],
        gradients: &mut Gradients,
        mut loss: impl FnMut(HeadRows<'_>) -> Result<HeadSlopes>,
    ) -> Result<()> {
        let Some((trunk, linear)) = &self.open else {
            let operations = self.lm.operations()?;
            return self.backward_on_tape(batch, temperatures, gradients, &mut loss, operations);
        };
        let (targets, temperatures) = self.lm.targets(batch, temperatures)?;
        let (packed, rows) = (batch.packed_inputs(), batch.prediction_rows());
        let (hidden, saved) = trunk.forward(self.lm.trunk.batch(&packed, self.lm.precision), self.keep)?;
        let selected = self.select(&hidden, &rows);
        let n = hidden.len();
        drop(hidden);
        let d_selected = self.head(linear, &selected, &targets, &temperatures).backward(&mut loss, gradients)?;
        let mut d_hidden = vec![0.0; n];
        let width = self.width();
        for (&row, d) in rows.iter().zip(d_selected.chunks_exact(width)) {
            d_hidden[row as usize * width..][..width].copy_from_slice(d);
        }
        trunk.backward(saved, &d_hidden, gradients);
        Ok(())
    }

    /// The same on candle's tape.
    pub(crate) fn backward_on_tape(
        &self,
        batch: &SequenceBatch,
        temperatures: &[f32],
        gradients: &mut Gradients,
        loss: &mut dyn FnMut(HeadRows<'_>) -> Result<HeadSlopes>,
        operations: Operations,
    ) -> Result<()> {
        let (log_probs, entropies) = self.lm.log_probs_on_tape(batch, temperatures, Pass::Train, operations)?;
        let (seen, seen_entropies) = (log_probs.to_vec1::<f32>()?, entropies.to_vec1::<f32>()?);
        let rows = HeadRows { range: 0..seen.len(), log_probs: &seen, entropies: &seen_entropies };
        let slopes = loss(rows)?;
        let n = slopes.log_probs.len();
        let constant = |slopes: Vec<f32>| Tensor::from_vec(slopes, n, log_probs.device());
        // Σ ℓ·c with constant c = d loss/dℓ: its gradient is that of the loss.
        let mut objective = (&log_probs * constant(slopes.log_probs)?)?.sum_all()?;
        if !slopes.entropies.is_empty() {
            objective = (objective + (entropies * constant(slopes.entropies)?)?.sum_all()?)?;
        }
        gradients.add(&self.lm.parameters, &objective.backward()?)
    }

    fn head<'b>(
        &self,
        linear: &'b Linear<'b>,
        hidden: &'b [f32],
        targets: &'b [u32],
        temperatures: &'b [f64],
    ) -> Head<'b> {
        Head { linear, hidden, width: self.width(), targets, temperatures, precision: self.lm.precision }
    }

    fn width(&self) -> usize {
        self.lm.trunk.shape().hidden
    }

    /// Some rows, one after another.
    fn select(&self, hidden: &[f32], rows: &[u32]) -> Vec<f32> {
        let width = self.width();
        rows.iter().flat_map(|&row| &hidden[row as usize * width..][..width]).copied().collect()
    }
}
