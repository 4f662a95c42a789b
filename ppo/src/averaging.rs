//! Averages of weights over updates.
//!
//! InstructGPT evaluates an exponential moving average of the policy (C.4: decay 0.992 per iteration). It is a candidate
//! for publication, never the sampler: the recorded behavior log-probs must belong to the weights that drew the tokens.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use policy::{
    checkpoint::{Checkpoint, WeightType},
    model_error::Result,
};

/// A moving average of weights, beside the weights. Cheap to clone: its tensors are replaced, never written into.
#[derive(Clone, Debug)]
pub struct WeightAverage(BTreeMap<String, Tensor>);

impl WeightAverage {
    /// Begins with the weights as they are.
    ///
    /// # Errors
    /// When memory fails.
    pub fn of(parameters: &BTreeMap<String, Var>) -> Result<WeightAverage> {
        // A real copy: the optimiser writes into the variable's storage.
        let copy = |(name, var): (&String, &Var)| Ok((name.clone(), var.as_detached_tensor().copy()?));
        Ok(WeightAverage(parameters.iter().map(copy).collect::<Result<_>>()?))
    }

    /// The average that was saved.
    #[must_use]
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> WeightAverage {
        WeightAverage(tensors)
    }

    /// What to save, by the parameters' names.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.0
    }

    /// [`move_average`] for every tensor: `a ← a + (1 − decay)·(w − a)`, in the weights' type.
    ///
    /// # Errors
    /// When the device fails.
    pub fn follow(&mut self, parameters: &BTreeMap<String, Var>, decay: f64) -> Result<()> {
        for (name, average) in &mut self.0 {
            if let Some(var) = parameters.get(name) {
                let weights = var.as_detached_tensor();
                *average = (&*average + ((weights - &*average)? * (1.0 - decay))?)?;
            }
        }
        Ok(())
    }

    /// The average as a policy: metadata and file types of `like`.
    #[must_use]
    pub fn to_checkpoint(&self, like: &Checkpoint, weight_type: WeightType) -> Checkpoint {
        let mut checkpoint = like.clone();
        checkpoint.tensors.extend(self.0.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        checkpoint.retype(&like.types, weight_type);
        checkpoint
    }
}

/// Moves `average` towards `weights`.
///
/// `a ← decay·a + (1 − decay)·w`, started at the first weights, hence without bias correction.
/// Source: InstructGPT (arXiv 2203.02155) C.4.
///
/// # Panics
/// When the lengths differ.
pub fn move_average(average: &mut [f64], weights: &[f64], decay: f64) {
    assert_eq!(average.len(), weights.len(), "one average per weight");
    for (a, w) in average.iter_mut().zip(weights) {
        *a = decay * *a + (1.0 - decay) * w;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_average_of_constant_weights_stays() {
        let mut average = [1.5, -2.0];
        super::move_average(&mut average, &[1.5, -2.0], 0.992);
        assert!((average[0] - 1.5).abs() < 1e-12 && (average[1] + 2.0).abs() < 1e-12);
        super::move_average(&mut average, &[3.0, 0.0], 0.0);
        assert_eq!(average, [3.0, 0.0]);
    }
}
