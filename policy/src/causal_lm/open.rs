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
    transformer::{Activations, Keep, Linear, OpenTrunk, Pass},
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
        Ok(self.read(batch, temperatures, Keep::Nothing)?.0)
    }

    /// The same, with what [`Self::backward_from`] needs to spare itself this pass; `None` on a GPU.
    ///
    /// # Errors
    /// As [`Self::log_probs`].
    pub fn log_probs_ahead(
        &self,
        batch: &SequenceBatch,
        temperatures: &[f32],
    ) -> Result<(ResponseLogProbs, Option<Activations>)> {
        self.read(batch, temperatures, self.keep)
    }

    fn read(
        &self,
        batch: &SequenceBatch,
        temperatures: &[f32],
        keep: Keep,
    ) -> Result<(ResponseLogProbs, Option<Activations>)> {
        let Some((trunk, linear)) = &self.open else {
            let operations = self.lm.operations()?;
            let (log_probs, entropies) = self.lm.log_probs_on_tape(batch, temperatures, Pass::Frozen, operations)?;
            let said = ResponseLogProbs { log_probs: log_probs.to_vec1()?, entropies: entropies.to_vec1()? };
            return Ok((said, None));
        };
        let mut out = ResponseLogProbs::default();
        let (targets, temperatures) = self.lm.targets(batch, temperatures)?;
        let packed = batch.packed_inputs();
        let passed = self.lm.trunk.batch(&packed, self.lm.precision);
        let (hidden, kept) = trunk.forward(&passed, &batch.prediction_rows(), keep)?;
        self.head(linear, &hidden, &targets, &temperatures).forward(|rows| {
            out.log_probs.extend_from_slice(rows.log_probs);
            out.entropies.extend_from_slice(rows.entropies);
        });
        Ok((out, Some(kept)))
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
        loss: impl FnMut(HeadRows<'_>) -> Result<HeadSlopes>,
    ) -> Result<()> {
        self.backward_from(None, batch, temperatures, gradients, loss)
    }

    /// The same, without the forward pass where [`Self::log_probs_ahead`] has made it: of this very batch, by these very weights.
    ///
    /// # Errors
    /// As [`Self::backward`].
    pub fn backward_from(
        &self,
        ahead: Option<Activations>,
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
        let passed = self.lm.trunk.batch(&packed, self.lm.precision);
        let (hidden, kept) = trunk.forward_from(ahead, &passed, &rows, self.keep)?;
        let d_hidden = self.head(linear, &hidden, &targets, &temperatures).backward(&mut loss, gradients)?;
        drop(hidden);
        trunk.backward(&passed, &rows, kept, &d_hidden, gradients);
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
        let width = self.lm.trunk.shape().hidden;
        Head { linear, hidden, width, targets, temperatures, precision: self.lm.precision }
    }
}
