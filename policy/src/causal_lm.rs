//! The language model: trunk and unembedding, read as log-probabilities of response tokens.
//!
//! Logits exist only where a response token is predicted: rows P-1+t of the hidden states are selected before the
//! unembedding, so a prompt costs no vocabulary-sized row.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use crate::{
    architecture::{Shape, llama},
    checkpoint::{Checkpoint, WeightType},
    kernels,
    model_error::{ModelError, Result},
    sequence_batch::{Packed, SequenceBatch},
    transformer::{Pass, Transformer, Weight, random_checkpoint, weights_of},
};

/// Rows of logits that exist at once in a frozen pass: bounds its memory by `rows * vocab * 4` bytes.
const FROZEN_ROWS: usize = 256;

/// What a frozen pass reads from the policy, flat over response tokens, sequence after sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseLogProbs {
    /// Log-probability of each response token at its sequence's temperature, nats, `[n_response_tokens]`.
    pub log_probs: Vec<f32>,
    /// Entropy of the distribution each token was drawn from, nats, `[n_response_tokens]`.
    pub entropies: Vec<f32>,
}

/// A trunk with a language-model head.
pub struct CausalLm {
    trunk: Transformer,
    head: Weight,
    parameters: BTreeMap<String, Var>,
}

impl CausalLm {
    /// From a policy's checkpoint.
    ///
    /// # Errors
    /// When the architecture cannot be trained or tensors do not fit the metadata.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<CausalLm> {
        let trunk = Transformer::from_checkpoint(checkpoint, device)?;
        let mut parameters = trunk.parameters().clone();
        let shape = trunk.shape();
        let head = if shape.tied {
            trunk.embedding().clone()
        } else {
            let output = weights_of(checkpoint, llama::OUTPUT, &[shape.vocab_size, shape.hidden], device)?;
            parameters.insert(llama::OUTPUT.to_owned(), output);
            Weight::named(&parameters, llama::OUTPUT)?
        };
        Ok(CausalLm { trunk, head, parameters })
    }

    /// Random weights.
    ///
    /// # Errors
    /// When memory or the device fails.
    pub fn random(shape: &Shape, seed: u64, device: &Device) -> Result<CausalLm> {
        Self::from_checkpoint(&random_checkpoint(shape, seed)?, device)
    }

    /// Log-probabilities of all response tokens, flat, sequence after sequence: `[n_response_tokens]`, f32, nats.
    ///
    /// Token y_t is read from position P-1+t; logits are divided by the sequence's temperature before the softmax. The
    /// result is differentiable in every parameter.
    ///
    /// # Errors
    /// When the batch is empty, a temperature is missing or not positive, or the device fails.
    pub fn response_log_probs(&self, batch: &SequenceBatch, temperatures: &[f32]) -> Result<Tensor> {
        let (logits, targets, temperatures) = self.response_logits(batch, temperatures, Pass::Train)?;
        Ok(kernels::log_prob_gather(&logits, &targets, &temperatures)?)
    }

    /// As [`Self::response_log_probs`], without a graph, with entropies: the old and the reference pass.
    ///
    /// # Errors
    /// As [`Self::response_log_probs`].
    pub fn frozen_log_probs(&self, batch: &SequenceBatch, temperatures: &[f32]) -> Result<ResponseLogProbs> {
        let (hidden, targets, temperatures) = self.response_hidden(batch, temperatures, Pass::Frozen)?;
        let mut out = ResponseLogProbs::default();
        for start in (0..targets.len()).step_by(FROZEN_ROWS) {
            let n = FROZEN_ROWS.min(targets.len() - start);
            let logits = kernels::linear(&hidden.narrow(0, start, n)?, self.head.get(Pass::Frozen))?;
            let temperatures = &temperatures[start..start + n];
            let log_probs = kernels::log_prob_gather(&logits, &targets[start..start + n], temperatures)?;
            out.log_probs.extend(log_probs.to_vec1::<f32>()?);
            out.entropies.extend(kernels::entropy(&logits, temperatures)?.to_vec1::<f32>()?);
        }
        Ok(out)
    }

    /// Logits that predict each response token, `[n_response_tokens, vocab]`, with each row's target and temperature.
    ///
    /// # Errors
    /// As [`Self::response_log_probs`].
    pub fn response_logits(
        &self,
        batch: &SequenceBatch,
        temperatures: &[f32],
        pass: Pass,
    ) -> Result<(Tensor, Vec<u32>, Vec<f64>)> {
        let (hidden, targets, temperatures) = self.response_hidden(batch, temperatures, pass)?;
        Ok((kernels::linear(&hidden, self.head.get(pass))?, targets, temperatures))
    }

    fn response_hidden(
        &self,
        batch: &SequenceBatch,
        temperatures: &[f32],
        pass: Pass,
    ) -> Result<(Tensor, Vec<u32>, Vec<f64>)> {
        batch.check()?;
        let temperatures = per_token(batch, temperatures)?;
        let hidden = self.trunk.hidden(&batch.packed_inputs(), pass)?; // [n_tokens, hidden]
        let rows = Tensor::new(batch.prediction_rows(), self.trunk.device())?;
        let targets = batch.sequences.iter().flat_map(|s| s.response()).map(|t| t.0).collect();
        Ok((hidden.index_select(&rows, 0)?, targets, temperatures)) // [n_response_tokens, hidden]
    }

    /// Logits at every position of one sequence, `[n_tokens, vocab]`, without a graph: for parity checks.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary.
    pub fn logits(&self, tokens: &[crate::token::TokenId]) -> Result<Tensor> {
        let hidden = self.trunk.hidden(&Packed::new(std::iter::once(tokens)), Pass::Frozen)?;
        Ok(kernels::linear(&hidden, self.head.get(Pass::Frozen))?)
    }

    /// The weights as a checkpoint: metadata and file types of `like`, tensors from here.
    ///
    /// Tensors of `like` that are not trained (`rope_freqs`) are carried over.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_checkpoint(&self, like: &Checkpoint, weight_type: WeightType) -> Result<Checkpoint> {
        to_checkpoint(&self.parameters, like, weight_type)
    }

    /// The trainable tensors by GGUF name.
    #[must_use]
    pub fn parameters(&self) -> &BTreeMap<String, Var> {
        &self.parameters
    }

    /// The trunk.
    #[must_use]
    pub fn trunk(&self) -> &Transformer {
        &self.trunk
    }
}

/// Copies parameters over those of `like` and sets the file types.
pub(crate) fn to_checkpoint(
    parameters: &BTreeMap<String, Var>,
    like: &Checkpoint,
    weight_type: WeightType,
) -> Result<Checkpoint> {
    let mut checkpoint =
        Checkpoint { metadata: like.metadata.clone(), tensors: like.tensors.clone(), types: BTreeMap::new() };
    for (name, var) in parameters {
        let tensor = var.as_detached_tensor().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        // A copy: the variable's storage changes in place when training goes on.
        checkpoint.tensors.insert(name.clone(), tensor.copy()?);
    }
    checkpoint.retype(&like.types, weight_type);
    Ok(checkpoint)
}

fn per_token(batch: &SequenceBatch, temperatures: &[f32]) -> Result<Vec<f64>> {
    if temperatures.len() != batch.sequences.len() {
        let (expected, got) = (batch.sequences.len(), temperatures.len());
        return Err(ModelError::Batch(format!("expected {expected} temperatures, got {got}")));
    }
    if let Some(bad) = temperatures.iter().find(|t| !(t.is_finite() && **t > 0.0)) {
        return Err(ModelError::Batch(format!("expected a positive temperature, got {bad}")));
    }
    let pairs = batch.sequences.iter().zip(temperatures);
    Ok(pairs.flat_map(|(s, &t)| std::iter::repeat_n(f64::from(t), s.response().len())).collect())
}

#[cfg(test)]
mod tests;
