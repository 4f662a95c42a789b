//! Gradients summed over micro-batches.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var, backprop::GradStore};
use rayon::prelude::*;

use crate::model_error::Result;

/// One gradient per parameter, by name. A parameter that no loss has reached has none.
#[derive(Clone, Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor>);

impl Gradients {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Gradients {
        Gradients::default()
    }

    /// Adds what one backward pass left for these parameters.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn add(&mut self, parameters: &BTreeMap<String, Var>, store: &GradStore) -> Result<()> {
        for (name, var) in parameters {
            if let Some(gradient) = store.get(var.as_tensor()) {
                self.add_one(name, gradient)?;
            }
        }
        Ok(())
    }

    /// Adds another sum to this one.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn merge(&mut self, other: &Gradients) -> Result<()> {
        other.0.iter().try_for_each(|(name, gradient)| self.add_one(name, gradient))
    }

    fn add_one(&mut self, name: &str, gradient: &Tensor) -> Result<()> {
        let sum = match self.0.get(name) {
            Some(before) => (before + gradient)?,
            None => gradient.contiguous()?,
        };
        self.0.insert(name.to_owned(), sum.detach());
        Ok(())
    }

    /// The gradient of one parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// sqrt(Σ g²) over every parameter, summed in f64.
    ///
    /// # Errors
    /// When the device fails.
    pub fn global_norm(&self) -> Result<f64> {
        let mut squares = 0.0;
        for gradient in self.0.values() {
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        Ok(squares.sqrt())
    }

    /// Multiplies every gradient.
    ///
    /// # Errors
    /// When the device fails.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for gradient in self.0.values_mut() {
            *gradient = (&*gradient * factor)?;
        }
        Ok(())
    }

    /// Clips to a global norm as PyTorch does, g *= max / (norm + 1e-6) when norm > max, and returns the norm before.
    ///
    /// # Errors
    /// When the device fails.
    pub fn clip(&mut self, max_norm: f64) -> Result<f64> {
        let norm = self.global_norm()?;
        if norm > max_norm {
            self.scale(max_norm / (norm + 1e-6))?;
        }
        Ok(norm)
    }
}

/// Runs `loss` on every micro-batch, backpropagates each result and sums the gradients in the order of `micro_batches`.
///
/// `lanes` micro-batches run at once, each on one thread of the current rayon pool: small models gain nothing from
/// splitting a matrix product, but everything from running two of them. Order of summation does not depend on timing, so
/// results repeat bit for bit for the same `lanes`-independent list. `loss` returns what to backpropagate and what to report.
///
/// # Errors
/// The first error of any micro-batch.
pub fn accumulate<T: Sync, R: Send>(
    gradients: &mut Gradients,
    parameters: &BTreeMap<String, Var>,
    micro_batches: &[T],
    lanes: usize,
    loss: impl Fn(&T) -> Result<(Tensor, R)> + Sync,
) -> Result<Vec<R>> {
    let mut reports = Vec::with_capacity(micro_batches.len());
    for wave in micro_batches.chunks(lanes.max(1)) {
        let one = |micro_batch: &T| {
            let (objective, report) = loss(micro_batch)?;
            Ok((objective.backward()?, report))
        };
        // One lane stays on this thread, so that products may use the whole pool.
        let results: Vec<Result<(GradStore, R)>> =
            if wave.len() == 1 { wave.iter().map(one).collect() } else { wave.par_iter().map(one).collect() };
        for result in results {
            let (store, report) = result?;
            gradients.add(parameters, &store)?;
            reports.push(report);
        }
    }
    Ok(reports)
}
