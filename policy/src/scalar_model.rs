//! A trunk with a scalar head: the reward model (read at the last token) and the value model (read before every token).
//!
//! A reward model may have several heads on its one trunk: an ensemble, whose disagreement says how far to trust it.

mod open;

use std::collections::BTreeMap;

pub use open::OpenScalar;

use candle_core::{Device, Tensor, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{
    causal_lm::{CausalLm, to_checkpoint},
    checkpoint::{Checkpoint, WeightType},
    kernels::{Operations, Precision, plain},
    model_error::{ModelError, Result},
    sequence_batch::{Packed, SequenceBatch},
    transformer::{Adapter, Keep, Pass, Rounded, Transformer, Weight, Weights, normal, weights_of},
};

/// Name of the head's weight, `[heads, hidden]`.
pub const HEAD_WEIGHT: &str = "reward_head.weight";
/// Name of the head's bias, `[heads]`.
pub const HEAD_BIAS: &str = "reward_head.bias";

/// Whether a parameter is of the head, by its name.
#[must_use]
pub fn is_head(name: &str) -> bool {
    [HEAD_WEIGHT, HEAD_BIAS].contains(&name)
}

/// A trunk with one linear unit on top, or several side by side.
pub struct ScalarModel {
    trunk: Transformer,
    weight: Weight,
    bias: Weight,
    /// Every tensor of trunk and head.
    weights: BTreeMap<String, Var>,
    /// What learns of them, and the adapter's factors.
    parameters: BTreeMap<String, Var>,
    precision: Precision,
    rounded: Rounded,
    keep: Keep,
}

impl ScalarModel {
    /// From a checkpoint that has a head: a reward model's, or a saved value model's.
    ///
    /// # Errors
    /// When the head or a tensor is absent, or the architecture cannot be trained.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<ScalarModel> {
        let trunk = Transformer::from_checkpoint(checkpoint, device)?;
        let n_heads = checkpoint.tensor(HEAD_BIAS)?.elem_count();
        let weight = weights_of(checkpoint, HEAD_WEIGHT, &[n_heads, trunk.shape().hidden], device)?;
        let bias = weights_of(checkpoint, HEAD_BIAS, &[n_heads], device)?;
        Self::assemble(trunk, weight, bias)
    }

    /// A policy's trunk with a new head: weights N(0, 1/sqrt(hidden + 1)), bias 0 (lm-human-preferences `fc_layer`).
    ///
    /// # Errors
    /// When the architecture cannot be trained.
    pub fn from_policy(checkpoint: &Checkpoint, seed: u64, device: &Device) -> Result<ScalarModel> {
        Self::from_policy_with_heads(checkpoint, 1, seed, device)
    }

    /// As [`ScalarModel::from_policy`] with `n_heads` heads, each drawn for itself; the first is the one that a single head
    /// would be.
    ///
    /// # Errors
    /// When the architecture cannot be trained.
    pub fn from_policy_with_heads(
        checkpoint: &Checkpoint,
        n_heads: usize,
        seed: u64,
        device: &Device,
    ) -> Result<ScalarModel> {
        let trunk = Transformer::from_checkpoint(checkpoint, device)?;
        let (weight, bias) = new_heads(n_heads, trunk.shape().hidden, seed, device)?;
        Self::assemble(trunk, weight, bias)
    }

    /// A policy's trunk with a head of zeros: a value model that starts at V = 0 where there is no reward model to copy.
    ///
    /// # Errors
    /// When the architecture cannot be trained.
    pub fn from_policy_zero_head(checkpoint: &Checkpoint, device: &Device) -> Result<ScalarModel> {
        let trunk = Transformer::from_checkpoint(checkpoint, device)?;
        let weight = Var::zeros((1, trunk.shape().hidden), candle_core::DType::F32, device)?;
        Self::assemble(trunk, weight, Var::zeros(1, candle_core::DType::F32, device)?)
    }

    /// On the frozen weights of a policy, which it shares, with an adapter of its own and a head of zeros.
    ///
    /// # Errors
    /// When memory fails.
    pub fn beside(base: &CausalLm, adapter: Adapter) -> Result<ScalarModel> {
        let (hidden, device) = (base.trunk().shape().hidden, base.trunk().device());
        let weight = Var::zeros((1, hidden), candle_core::DType::F32, device)?;
        Self::with_head(base, adapter, weight, Var::zeros(1, candle_core::DType::F32, device)?)
    }

    /// The same with heads as [`ScalarModel::from_policy_with_heads`] draws them.
    ///
    /// # Errors
    /// When memory fails.
    pub fn beside_with_heads(base: &CausalLm, adapter: Adapter, n_heads: usize, seed: u64) -> Result<ScalarModel> {
        let (weight, bias) = new_heads(n_heads, base.trunk().shape().hidden, seed, base.trunk().device())?;
        Self::with_head(base, adapter, weight, bias)
    }

    /// The same with adapter and heads of a file.
    ///
    /// # Errors
    /// When they do not fit the policy.
    pub fn beside_from(base: &CausalLm, file: &Checkpoint) -> Result<ScalarModel> {
        let (shape, device) = (base.trunk().shape(), base.trunk().device());
        let adapter = Adapter::from_checkpoint(file, shape, device)?;
        let n_heads = file.tensor(HEAD_BIAS)?.elem_count();
        let weight = weights_of(file, HEAD_WEIGHT, &[n_heads, shape.hidden], device)?;
        Self::with_head(base, adapter, weight, weights_of(file, HEAD_BIAS, &[n_heads], device)?)
    }

    /// The same adapter and head beside other weights, which are `base`'s; without an adapter, the same weights in its precision.
    ///
    /// # Errors
    /// When the head is not in memory.
    pub fn moved_beside(self, base: &CausalLm) -> Result<ScalarModel> {
        let Some(adapter) = self.trunk.adapter().cloned() else {
            return Ok(self.with_precision(base.precision()));
        };
        let [weight, bias] = [HEAD_WEIGHT, HEAD_BIAS].map(|name| self.weights[name].clone());
        Ok(Self::with_head(base, adapter, weight, bias)?.with_keep(self.keep))
    }

    fn with_head(base: &CausalLm, adapter: Adapter, weight: Var, bias: Var) -> Result<ScalarModel> {
        let model = Self::assemble(base.trunk().clone().with_adapter(adapter), weight, bias)?;
        Ok(ScalarModel { rounded: base.rounded().clone(), precision: base.precision(), ..model })
    }

    fn assemble(trunk: Transformer, weight: Var, bias: Var) -> Result<ScalarModel> {
        let head = [(HEAD_WEIGHT, weight), (HEAD_BIAS, bias)].map(|(name, var)| (name.to_owned(), var));
        let mut weights = trunk.parameters().clone();
        weights.extend(head.clone());
        let mut parameters = trunk.adapter().map_or_else(|| weights.clone(), |adapter| adapter.parameters().clone());
        parameters.extend(head);
        let (weight, bias) = (Weight::named(&weights, HEAD_WEIGHT)?, Weight::named(&weights, HEAD_BIAS)?);
        let rounded = Rounded::default();
        Ok(ScalarModel {
            trunk,
            weight,
            bias,
            weights,
            parameters,
            precision: Precision::F32,
            rounded,
            keep: Keep::All,
        })
    }

    /// The same model with the matrix products of its trunk in this precision; f32 unless told. The head is always f32.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> ScalarModel {
        ScalarModel { precision, ..self }
    }

    /// The same model with its backward passes keeping all activations, or only what each block reads; all unless told.
    #[must_use]
    pub fn with_keep(self, keep: Keep) -> ScalarModel {
        ScalarModel { keep, ..self }
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

    /// What each head says at each sequence's last token, the end token included: `[batch, heads]` row by row, f32.
    ///
    /// # Errors
    /// When the batch is empty or the device fails.
    pub fn scores_at_last(&self, batch: &SequenceBatch) -> Result<Vec<f32>> {
        self.open(|model| model.scores_at_last(batch))
    }

    /// V before each response token y_t, read at position P-1+t, flat: `[n_response_tokens]`, f32.
    ///
    /// # Errors
    /// When there are several heads, the batch is empty or the device fails.
    pub fn values_at_response(&self, batch: &SequenceBatch) -> Result<Vec<f32>> {
        self.open(|model| model.values_at_response(batch))
    }

    /// The heads at some rows of the trunk's hidden states, on candle's tape: `[rows, heads]`.
    fn on_tape(&self, places: &Places, pass: Pass, operations: Operations) -> Result<Tensor> {
        let hidden = self.trunk.hidden_by(&places.packed, pass, operations)?;
        let scalars = plain::linear(&operations.rows(&hidden, &places.rows)?, self.weight.get(pass))?; // [rows, heads]
        Ok(scalars.broadcast_add(self.bias.get(pass))?) // [rows, heads]
    }

    /// How many heads read the trunk.
    #[must_use]
    pub fn n_heads(&self) -> usize {
        self.bias.get(Pass::Frozen).elem_count()
    }

    /// A value has one head: nothing says how several would become one.
    fn check_one_head(&self) -> Result<()> {
        match self.n_heads() {
            1 => Ok(()),
            n => Err(ModelError::Batch(format!("expected a model with one head, got {n}"))),
        }
    }

    /// Trunk and head as a checkpoint with the metadata and file types of `like`; the head stays f32. Beside frozen weights:
    /// the adapter and the head.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_checkpoint(&self, like: &Checkpoint, weight_type: WeightType) -> Result<Checkpoint> {
        if let Some(adapter) = self.trunk.adapter() {
            let mut checkpoint = adapter.to_checkpoint(&like.metadata)?;
            for name in [HEAD_WEIGHT, HEAD_BIAS] {
                checkpoint.tensors.insert(name.to_owned(), self.weights[name].as_detached_tensor().copy()?);
            }
            return Ok(checkpoint);
        }
        let mut checkpoint = to_checkpoint(&self.weights, like, weight_type)?;
        checkpoint.tensors.remove(crate::architecture::llama::OUTPUT);
        checkpoint.types.remove(crate::architecture::llama::OUTPUT);
        checkpoint.types.remove(HEAD_WEIGHT);
        Ok(checkpoint)
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

/// Weights N(0, 1/sqrt(hidden + 1)), biases 0.
fn new_heads(n_heads: usize, hidden: usize, seed: u64, device: &Device) -> Result<(Var, Var)> {
    let std = 1.0 / ((hidden + 1) as f32).sqrt();
    let weight = normal(&mut ChaCha8Rng::seed_from_u64(seed), std, n_heads * hidden);
    let weight = Var::from_vec(weight, (n_heads, hidden), device)?;
    Ok((weight, Var::zeros(n_heads, candle_core::DType::F32, device)?))
}

/// Tokens, and the rows of their hidden states at which the head is read.
struct Places {
    packed: Packed,
    rows: Vec<u32>,
}

impl Places {
    /// Each sequence's last token.
    fn last(batch: &SequenceBatch) -> Result<Places> {
        let packed = batch.packed();
        if packed.is_empty() || packed.spans().any(|(_, len)| len == 0) {
            return Err(ModelError::Batch("a sequence without tokens has no last token".to_owned()));
        }
        let rows = packed.offsets[1..].iter().map(|&end| end as u32 - 1).collect();
        Ok(Places { packed, rows })
    }

    /// The token before each response token.
    fn response(batch: &SequenceBatch) -> Result<Places> {
        batch.check()?;
        Ok(Places { packed: batch.packed_inputs(), rows: batch.prediction_rows() })
    }
}

#[cfg(test)]
mod tests;
