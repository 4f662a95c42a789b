//! The scalar model opened for passes.

use candle_core::Tensor;

use super::{HEAD_BIAS, HEAD_WEIGHT, Places, ScalarModel};
use crate::{
    kernels::Operations,
    model_error::Result,
    optimizer::Gradients,
    sequence_batch::SequenceBatch,
    transformer::{Activations, Keep, OpenTrunk, Pass},
};

/// A scalar model whose weights are held open: any number of passes, from any number of threads.
pub struct OpenScalar<'a> {
    model: &'a ScalarModel,
    /// Absent on a GPU, whose pass is on candle's tape.
    open: Option<OpenParts<'a>>,
}

struct OpenParts<'a> {
    trunk: OpenTrunk<'a>,
    /// `[heads, hidden]`.
    weight: &'a [f32],
    /// `[heads]`.
    bias: &'a [f32],
}

impl ScalarModel {
    /// Who computes its passes on candle's tape.
    fn operations(&self) -> Result<Operations> {
        Ok(Operations::of(self.trunk.device(), self.precision)?)
    }

    /// Opens the weights for the passes in `run`; nothing may change them meanwhile.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn open<R>(&self, run: impl FnOnce(&OpenScalar<'_>) -> Result<R>) -> Result<R> {
        if !self.trunk.device().is_cpu() {
            return run(&OpenScalar { model: self, open: None });
        }
        self.weights().open(|open| {
            let parts = OpenParts {
                trunk: open.trunk(self.trunk.shape())?,
                weight: open.slice(HEAD_WEIGHT)?.1,
                bias: open.slice(HEAD_BIAS)?.1,
            };
            run(&OpenScalar { model: self, open: Some(parts) })
        })
    }
}

impl OpenScalar<'_> {
    /// What each head says at each sequence's last token, the end token included: `[batch, heads]` row by row, f32.
    ///
    /// # Errors
    /// When the batch is empty or a token lies outside the vocabulary.
    pub fn scores_at_last(&self, batch: &SequenceBatch) -> Result<Vec<f32>> {
        Ok(self.read(&Places::last(batch)?, Keep::Nothing)?.0)
    }

    /// V before each response token: `[n_response_tokens]`, f32.
    ///
    /// # Errors
    /// When there are several heads, the batch is empty, has no prompts, or a token lies outside the vocabulary.
    pub fn values_at_response(&self, batch: &SequenceBatch) -> Result<Vec<f32>> {
        Ok(self.read_values(batch, Keep::Nothing)?.0)
    }

    /// The same, with what [`Self::backward_at_response_from`] needs to spare itself this pass; `None` on a GPU.
    ///
    /// # Errors
    /// As [`Self::values_at_response`].
    pub fn values_at_response_ahead(&self, batch: &SequenceBatch) -> Result<(Vec<f32>, Option<Activations>)> {
        self.read_values(batch, self.model.keep)
    }

    fn read_values(&self, batch: &SequenceBatch, keep: Keep) -> Result<(Vec<f32>, Option<Activations>)> {
        self.model.check_one_head()?;
        self.read(&Places::response(batch)?, keep)
    }

    /// Forward and backward in one: `loss` is told the scores and says the slopes of the loss in them, both `[batch, heads]`
    /// row by row.
    ///
    /// # Errors
    /// As [`Self::scores_at_last`], and those of `loss`.
    pub fn backward_at_last<R>(
        &self,
        batch: &SequenceBatch,
        gradients: &mut Gradients,
        loss: impl FnOnce(&[f32]) -> Result<(Vec<f32>, R)>,
    ) -> Result<R> {
        self.backward(None, &Places::last(batch)?, gradients, loss)
    }

    /// The same for the values before the response tokens.
    ///
    /// # Errors
    /// As [`Self::values_at_response`], and those of `loss`.
    pub fn backward_at_response<R>(
        &self,
        batch: &SequenceBatch,
        gradients: &mut Gradients,
        loss: impl FnOnce(&[f32]) -> Result<(Vec<f32>, R)>,
    ) -> Result<R> {
        self.backward_at_response_from(None, batch, gradients, loss)
    }

    /// The same, without the forward pass where [`Self::values_at_response_ahead`] has made it: of this very batch, by these
    /// very weights.
    ///
    /// # Errors
    /// As [`Self::backward_at_response`].
    pub fn backward_at_response_from<R>(
        &self,
        ahead: Option<Activations>,
        batch: &SequenceBatch,
        gradients: &mut Gradients,
        loss: impl FnOnce(&[f32]) -> Result<(Vec<f32>, R)>,
    ) -> Result<R> {
        self.model.check_one_head()?;
        self.backward(ahead, &Places::response(batch)?, gradients, loss)
    }

    fn read(&self, places: &Places, keep: Keep) -> Result<(Vec<f32>, Option<Activations>)> {
        let Some(parts) = &self.open else {
            let operations = self.model.operations()?;
            return Ok((self.model.on_tape(places, Pass::Frozen, operations)?.flatten_all()?.to_vec1()?, None));
        };
        let batch = self.model.trunk.batch(&places.packed, self.model.precision);
        let (hidden, kept) = parts.trunk.forward(&batch, &places.rows, keep)?;
        Ok((parts.scalars(&hidden), Some(kept)))
    }

    fn backward<R>(
        &self,
        ahead: Option<Activations>,
        places: &Places,
        gradients: &mut Gradients,
        loss: impl FnOnce(&[f32]) -> Result<(Vec<f32>, R)>,
    ) -> Result<R> {
        let Some(parts) = &self.open else {
            let operations = self.model.operations()?;
            return self.backward_on_tape(places, gradients, loss, operations);
        };
        let batch = self.model.trunk.batch(&places.packed, self.model.precision);
        let (hidden, kept) = parts.trunk.forward_from(ahead, &batch, &places.rows, self.model.keep)?;
        let (slopes, report) = loss(&parts.scalars(&hidden))?;
        let g = parts.backward(&hidden, &slopes, gradients);
        drop(hidden);
        parts.trunk.backward(&batch, &places.rows, kept, &g, gradients);
        Ok(report)
    }

    fn backward_on_tape<R>(
        &self,
        places: &Places,
        gradients: &mut Gradients,
        loss: impl FnOnce(&[f32]) -> Result<(Vec<f32>, R)>,
        operations: Operations,
    ) -> Result<R> {
        let scalars = self.model.on_tape(places, Pass::Train, operations)?;
        let (slopes, report) = loss(&scalars.flatten_all()?.to_vec1::<f32>()?)?;
        let slopes = Tensor::from_vec(slopes, scalars.dims(), scalars.device())?;
        gradients.add(&self.model.parameters, &(scalars * slopes)?.sum_all()?.backward()?)?;
        Ok(report)
    }
}

impl OpenParts<'_> {
    fn width(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    /// `[rows, heads]` row by row; `hidden [rows, width]`.
    fn scalars(&self, hidden: &[f32]) -> Vec<f32> {
        let width = self.width();
        let mut scalars = Vec::with_capacity(hidden.len() / width * self.bias.len());
        for hidden in hidden.chunks_exact(width) {
            let heads = self.weight.chunks(width).zip(self.bias);
            // The bias after the sum, as the product of any other layer would have it.
            scalars
                .extend(heads.map(|(weight, bias)| hidden.iter().zip(weight).map(|(h, w)| h * w).sum::<f32>() + bias));
        }
        scalars
    }

    /// Gradients of the heads; `slopes`: `[rows, heads]` row by row. Returns d hidden, `[rows, width]`.
    fn backward(&self, hidden: &[f32], slopes: &[f32], gradients: &mut Gradients) -> Vec<f32> {
        let (width, n_heads) = (self.width(), self.bias.len());
        assert_eq!(slopes.len(), hidden.len() / width * n_heads, "a loss gives one slope per scalar");
        let d_bias = gradients.slot(HEAD_BIAS, n_heads);
        slopes.chunks(n_heads).for_each(|row| d_bias.iter_mut().zip(row).for_each(|(d, slope)| *d += slope));
        let d_weight = gradients.slot(HEAD_WEIGHT, self.weight.len());
        let mut g = vec![0.0; hidden.len()];
        let rows = hidden.chunks_exact(width).zip(g.chunks_exact_mut(width));
        for ((hidden, g), slopes) in rows.zip(slopes.chunks(n_heads)) {
            let heads = self.weight.chunks(width).zip(d_weight.chunks_mut(width)).zip(slopes);
            for ((weight, d_weight), slope) in heads {
                d_weight.iter_mut().zip(hidden).for_each(|(d, h)| *d += slope * h);
                g.iter_mut().zip(weight).for_each(|(g, w)| *g += slope * w);
            }
        }
        g
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{
        checkpoint::WeightType,
        kernels::Precision,
        transformer::tests::{batch, check_scalar_differences, close, tiny, uneven_checkpoint},
    };

    /// Goal: the explicit backward of both readings is right, of one head and of three. Method: candle's tape over the plain
    /// operations, and over our CUDA kernels, emulated.
    #[test]
    fn gradients_equal_those_of_the_tape() {
        let policy = uneven_checkpoint(&tiny(), 11);
        let model = |n_heads| {
            let model = ScalarModel::from_policy_with_heads(&policy, n_heads, 3, &Device::Cpu).unwrap();
            let head = model.to_checkpoint(&policy, WeightType::F32).unwrap();
            ScalarModel::from_checkpoint(&head, &Device::Cpu).unwrap()
        };
        let places = [Places::last(&batch()).unwrap(), Places::response(&batch()).unwrap()];
        for (model, places) in [(model(1), &places[0]), (model(1), &places[1]), (model(3), &places[0])] {
            let loss = |scalars: &[f32]| Ok((scalars.iter().map(|s| 0.3 + s.sin()).collect(), scalars.to_vec()));
            for operations in [Operations::Plain, Operations::emulated(Precision::F32)] {
                let (mut ours, mut tape) = (Gradients::new(), Gradients::new());
                model
                    .open(|open| {
                        let a = open.backward(None, places, &mut ours, loss)?;
                        let b = open.backward_on_tape(places, &mut tape, loss, operations)?;
                        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
                        Ok(())
                    })
                    .unwrap();
                close(&ours, &tape, model.parameters(), 1e-5);
            }
        }
    }

    /// Goal: the same gradients are those of the loss, for a value model and for a reward model. Method: central differences in
    /// every tensor of the 2-layer model.
    #[test]
    fn gradients_are_finite_differences() {
        let policy = uneven_checkpoint(&tiny(), 13);
        check_scalar_differences(&ScalarModel::from_policy(&policy, 4, &Device::Cpu).unwrap());
    }
}
