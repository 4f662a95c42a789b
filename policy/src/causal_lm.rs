//! The language model: trunk and unembedding, read as log-probabilities of response tokens.
//!
//! Logits exist only where a response token is predicted: rows P-1+t of the hidden states are selected before the
//! unembedding, so a prompt costs no vocabulary-sized row; and only for some of them at once (`head`), so a batch costs no
//! matrix of tokens by vocabulary.

mod head;
mod open;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

pub(crate) use head::CHUNK_BYTES as LOGIT_BYTES;
pub use head::{HeadRows, HeadSlopes};
pub use open::OpenLm;

use crate::{
    architecture::{Shape, llama},
    checkpoint::{Checkpoint, WeightType},
    kernels::{Operations, Precision, plain},
    model_error::{ModelError, Result},
    sequence_batch::{Packed, SequenceBatch},
    transformer::{Adapter, Keep, Pass, Rounded, Transformer, Weight, Weights, random_checkpoint, weights_of},
};

/// What a frozen pass reads from the policy, flat over response tokens, sequence after sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseLogProbs {
    /// Log-probability of each response token at its sequence's temperature, nats, `[n_response_tokens]`.
    pub log_probs: Vec<f32>,
    /// Entropy of the distribution each token was drawn from, nats, `[n_response_tokens]`.
    pub entropies: Vec<f32>,
}

/// A trunk with a language-model head. Clones share their weights.
#[derive(Clone)]
pub struct CausalLm {
    trunk: Transformer,
    /// Every tensor of the architecture.
    weights: BTreeMap<String, Var>,
    /// What learns of them, or the adapter's factors.
    parameters: BTreeMap<String, Var>,
    precision: Precision,
    rounded: Rounded,
    keep: Keep,
}

impl CausalLm {
    /// From a policy's checkpoint.
    ///
    /// # Errors
    /// When the architecture cannot be trained or tensors do not fit the metadata.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<CausalLm> {
        let trunk = Transformer::from_checkpoint(checkpoint, device)?;
        let mut weights = trunk.parameters().clone();
        let shape = trunk.shape();
        if !shape.tied {
            let output = weights_of(checkpoint, llama::OUTPUT, &[shape.vocab_size, shape.hidden], device)?;
            weights.insert(llama::OUTPUT.to_owned(), output);
        }
        let (parameters, rounded) = (weights.clone(), Rounded::default());
        Ok(CausalLm { trunk, weights, parameters, precision: Precision::F32, rounded, keep: Keep::All })
    }

    /// Random weights.
    ///
    /// # Errors
    /// When memory or the device fails.
    pub fn random(shape: &Shape, seed: u64, device: &Device) -> Result<CausalLm> {
        Self::from_checkpoint(&random_checkpoint(shape, seed)?, device)
    }

    /// The same model with its matrix products in this precision; f32 unless told.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> CausalLm {
        CausalLm { precision, ..self }
    }

    /// The same model with its backward passes keeping all activations, or only what each block reads; all unless told.
    #[must_use]
    pub fn with_keep(self, keep: Keep) -> CausalLm {
        CausalLm { keep, ..self }
    }

    /// The same weights, frozen, with an adapter that learns in their place.
    #[must_use]
    pub fn with_adapter(self, adapter: Adapter) -> CausalLm {
        let parameters = adapter.parameters().clone();
        CausalLm { trunk: self.trunk.with_adapter(adapter), parameters, ..self }
    }

    /// The same model for passes of kernels that want no gradient of its weights. In bf16 it lets its f32 matrices go, but for the embedding
    /// table, of which rows are read as they are.
    ///
    /// # Errors
    /// When a parameter does not lie in memory as f32.
    pub fn frozen(mut self) -> Result<CausalLm> {
        if self.precision == Precision::F32 || !self.trunk.device().is_cpu() {
            return Ok(self);
        }
        self.rounded.keep();
        self.open(|_| Ok(()))?;
        let stays = |name: &str, var: &Var| var.dims().len() != 2 || name == llama::TOKEN_EMBEDDING;
        self.rounded.freeze();
        self.weights.retain(|name, var| stays(name, var));
        self.parameters = BTreeMap::new();
        self.trunk.retain(stays);
        Ok(self)
    }

    pub(crate) fn weights(&self) -> Weights<'_> {
        Weights {
            all: &self.weights,
            rounded: &self.rounded,
            adapter: self.trunk.adapter(),
            trainable: &self.parameters,
            precision: self.precision,
        }
    }

    /// The same model in f32, where its matrices are in memory as that.
    #[must_use]
    pub fn exact(&self) -> CausalLm {
        let precision = match self.weights.contains_key(&llama::block(0, "attn_q")) {
            true => Precision::F32,
            false => self.precision,
        };
        self.clone().with_precision(precision)
    }

    /// Name of the matrix that hidden states become logits by.
    fn head_name(&self) -> &'static str {
        if self.trunk.shape().tied { llama::TOKEN_EMBEDDING } else { llama::OUTPUT }
    }

    fn head(&self) -> Result<Weight> {
        Weight::named(&self.weights, self.head_name())
    }

    /// Its matrices in bf16: an optimiser may keep them in step; who writes weights by hand must have them forgotten.
    #[must_use]
    pub fn rounded(&self) -> &Rounded {
        &self.rounded
    }

    /// In what its matrix products are computed.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Log-probabilities of all response tokens on candle's tape: `[n_response_tokens]`, f32, nats.
    ///
    /// Token y_t is read from position P-1+t; logits are divided by the sequence's temperature before the softmax. The
    /// result is differentiable in every parameter.
    ///
    /// # Errors
    /// When the batch is empty, a temperature is missing or not positive, or the device fails.
    pub fn response_log_probs(&self, batch: &SequenceBatch, temperatures: &[f32]) -> Result<Tensor> {
        let operations = self.operations()?;
        Ok(self.log_probs_on_tape(batch, temperatures, Pass::Train, operations)?.0)
    }

    /// Log-probs and entropies of all response tokens, without gradients: the old and the reference pass.
    ///
    /// # Errors
    /// As [`Self::response_log_probs`].
    pub fn frozen_log_probs(&self, batch: &SequenceBatch, temperatures: &[f32]) -> Result<ResponseLogProbs> {
        self.open(|lm| lm.log_probs(batch, temperatures))
    }

    /// Logits that predict each response token, `[n_response_tokens, vocab]`, with each row's target and temperature; by an f32
    /// product, whatever the precision of the passes.
    ///
    /// # Errors
    /// As [`Self::response_log_probs`].
    pub fn response_logits(
        &self,
        batch: &SequenceBatch,
        temperatures: &[f32],
        pass: Pass,
    ) -> Result<(Tensor, Vec<u32>, Vec<f64>)> {
        let operations = self.operations()?;
        let (targets, temperatures) = self.targets(batch, temperatures)?;
        let hidden = self.response_hidden(batch, pass, operations)?;
        Ok((plain::linear(&hidden, self.head()?.get(pass))?, targets, temperatures))
    }

    fn operations(&self) -> Result<Operations> {
        Ok(Operations::of(self.trunk.device(), self.precision)?)
    }

    /// Log-probs and entropies of all response tokens on candle's tape, `[n_response_tokens]` each.
    fn log_probs_on_tape(
        &self,
        batch: &SequenceBatch,
        temperatures: &[f32],
        pass: Pass,
        operations: Operations,
    ) -> Result<(Tensor, Tensor)> {
        let (targets, temperatures) = self.targets(batch, temperatures)?;
        let hidden = self.response_hidden(batch, pass, operations)?;
        // Beside an adapter the unembedding is frozen too.
        let of_weights = if self.trunk.adapter().is_some() { Pass::Frozen } else { pass };
        Ok(operations.log_probs(&hidden, self.head()?.get(of_weights), &targets, &temperatures)?)
    }

    /// The hidden states that response tokens are predicted from, `[n_response_tokens, hidden]`.
    fn response_hidden(&self, batch: &SequenceBatch, pass: Pass, operations: Operations) -> Result<Tensor> {
        let hidden = self.trunk.hidden_by(&batch.packed_inputs(), pass, operations)?; // [n_tokens, hidden]
        Ok(operations.rows(&hidden, &batch.prediction_rows())?)
    }

    /// Every response token and the temperature that it was drawn at, flat.
    fn targets(&self, batch: &SequenceBatch, temperatures: &[f32]) -> Result<(Vec<u32>, Vec<f64>)> {
        batch.check()?;
        let temperatures = per_token(batch, temperatures)?;
        let targets: Vec<u32> = batch.sequences.iter().flat_map(|s| s.response()).map(|t| t.0).collect();
        let vocab = self.trunk.shape().vocab_size;
        match targets.iter().find(|&&t| t as usize >= vocab) {
            Some(t) => Err(ModelError::Batch(format!("token {t} lies outside the vocabulary of {vocab}"))),
            None => Ok((targets, temperatures)),
        }
    }

    /// Logits at every position of one sequence, `[n_tokens, vocab]`, without a graph: for parity checks.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary.
    pub fn logits(&self, tokens: &[crate::token::TokenId]) -> Result<Tensor> {
        let hidden = self.trunk.hidden(&Packed::new(std::iter::once(tokens)), Pass::Frozen)?;
        Ok(plain::linear(&hidden, self.head()?.get(Pass::Frozen))?)
    }

    /// The weights as a checkpoint: metadata and file types of `like`, tensors from here. Of a model with an adapter, the
    /// adapter.
    ///
    /// Tensors of `like` that are not trained (`rope_freqs`) are carried over.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_checkpoint(&self, like: &Checkpoint, weight_type: WeightType) -> Result<Checkpoint> {
        match self.trunk.adapter() {
            Some(adapter) => adapter.to_checkpoint(&like.metadata),
            None => to_checkpoint(&self.weights, like, weight_type),
        }
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
