//! Averages of weights over updates.
//!
//! InstructGPT evaluates an exponential moving average of the policy (C.4: decay 0.992 per iteration). It is a candidate
//! for publication ([`crate::averages`]), never the sampler: the recorded behavior log-probs must belong to the weights that
//! drew the tokens.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use policy::{
    checkpoint::{Checkpoint, WeightType},
    model_error::Result,
};

/// Suffix of the file beside a version's that holds the average of the weights up to its own.
pub const FILE_SUFFIX: &str = "average.gguf";

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

    /// Moves the average towards the weights as they are, in their type.
    ///
    /// `a ← decay·a + (1 − decay)·w`, as `a + (1 − decay)·(w − a)`; started at the first weights, hence without bias correction.
    /// Source: InstructGPT (arXiv 2203.02155) C.4.
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn an_average_of_constant_weights_stays() {
        let weights = |values: &[f32]| {
            BTreeMap::from([("w".to_owned(), Var::from_slice(values, values.len(), &Device::Cpu).unwrap())])
        };
        let still = weights(&[1.5, -2.0]);
        let mut average = WeightAverage::of(&still).unwrap();
        let mut after = |weights: &BTreeMap<String, Var>, decay| {
            average.follow(weights, decay).unwrap();
            average.tensors()["w"].to_vec1::<f32>().unwrap()
        };
        assert_eq!(after(&still, 0.992), [1.5, -2.0]);
        assert_eq!(after(&weights(&[3.0, 0.0]), 0.0), [3.0, 0.0]);
    }
}
