//! The reward model: a policy's trunk with one scalar instead of a vocabulary.
//!
//! It reads prompt and response together and judges at the last token, the end token included. What leaves this module is
//! always normalised: gain and bias lie in the file beside the head, and a file without them is refused, because a raw
//! output on a policy that expects normalised scores changes what the KL coefficient means. The digest of the vocabulary
//! that it was trained on lies there too: scores of other tokens would be noise that looks like numbers.
//!
//! With several heads it is an ensemble ([`crate::ensemble`]). Every member has a gain and a bias of its own, because the
//! ranking loss tells nothing about a head's scale, and only on a common one can members disagree.

mod canary;
mod held_out;
mod scale;
mod scores;

use std::path::Path;

use crate::{
    ensemble::{Combination, ensemble},
    normalization::Normalization,
    score::Judgement,
};
use candle_core::{Device, Tensor, quantized::gguf_file::Value};
use policy::{
    TokenId,
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, Digest, WeightType},
    model_error::ModelError,
    scalar_model::{HEAD_BIAS, HEAD_WEIGHT, ScalarModel},
    transformer::is_adapter,
};

pub use held_out::HeldOut;
pub use scores::{member_scores, raw_scores};

use scale::{check, numbers, read_numbers};

const GAIN: &str = "honed.reward.gain";
const BIAS: &str = "honed.reward.bias";
const VOCABULARY: &str = "honed.reward.vocabulary_digest";
const BASE: &str = "honed.reward.base_fingerprint";

/// Why a reward model cannot judge.
#[derive(Debug, thiserror::Error)]
pub enum RewardModelError {
    /// The file has no gain or no bias, or one that cannot be.
    #[error("a reward model is not served without its normalization: {0}")]
    Normalization(String),
    /// The model is trained on another vocabulary.
    #[error("the reward model is of vocabulary {expected}, the policy of {got}")]
    Vocabulary {
        /// Digest in the reward model's file.
        expected: String,
        /// Digest of the policy's vocabulary.
        got: String,
    },
    /// An adapter without the weights that it belongs to.
    #[error("it is an adapter, and can be used only beside the model that it was trained on")]
    NoBase,
    /// The weights that an adapter belongs to could not be had.
    #[error("it is an adapter, and the weights beside it cannot be used: {0}")]
    Weights(String),
    /// An adapter beside weights that it was not trained on.
    #[error("the reward model is an adapter of weights {expected}, the policy's version 0 has {got}")]
    Base {
        /// Fingerprint in the reward model's file.
        expected: String,
        /// Fingerprint of the weights at hand.
        got: String,
    },
    /// Somebody wrote the file while it was read.
    #[error("the file changed while it was read")]
    Changed,
    /// It gives scores that are none.
    #[error("its score of a short text is {0}, which is not finite")]
    NotFinite(f64),
    /// Reading, writing or computing failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A trained reward model with the map from its raw output to a score.
pub struct RewardModel {
    model: ScalarModel,
    /// One for each head.
    normalizations: Vec<Normalization>,
    combination: Combination,
    vocabulary_digest: String,
    source: Checkpoint,
    /// The weights beside which an adapter is computed.
    base: Option<CausalLm>,
}

impl RewardModel {
    /// A model fresh from training. `policy` is the checkpoint it was built on: its metadata (shape, vocabulary) and file
    /// types go into the reward model's file. `normalizations` has one map for each head.
    ///
    /// # Errors
    /// When there are not as many maps as heads, one is not finite or its gain not positive, or the weights cannot be
    /// copied.
    pub fn new(
        model: ScalarModel,
        policy: &Checkpoint,
        normalizations: &[Normalization],
        weight_type: WeightType,
    ) -> Result<RewardModel, RewardModelError> {
        check(normalizations, model.n_heads())?;
        let vocabulary_digest = policy.metadata.vocabulary_digest();
        let mut source = model.to_checkpoint(policy, weight_type)?;
        source.metadata.set(GAIN, numbers(normalizations.iter().map(|n| n.gain)));
        source.metadata.set(BIAS, numbers(normalizations.iter().map(|n| n.bias)));
        source.metadata.set(VOCABULARY, Value::String(vocabulary_digest.clone()));
        if model.trunk().adapter().is_some() {
            source.metadata.set(BASE, Value::String(model.trunk().fingerprint()?));
        }
        let (combination, base) = (Combination::default(), None);
        let normalizations = normalizations.to_vec();
        Ok(RewardModel { model, normalizations, combination, vocabulary_digest, source, base })
    }

    /// The same model, whose members' scores are combined in this way.
    #[must_use]
    pub fn combined(self, combination: Combination) -> RewardModel {
        RewardModel { combination, ..self }
    }

    /// Reads a reward model's file.
    ///
    /// # Errors
    /// When it is no GGUF, has no head, or lacks gain, bias or vocabulary digest; [`RewardModelError::NoBase`] when it is an
    /// adapter.
    pub fn load(path: &Path, device: &Device) -> Result<RewardModel, RewardModelError> {
        Self::from_checkpoint(Checkpoint::read(path)?, device)
    }

    /// As [`RewardModel::load`], of a whole model or of an adapter, which is then computed beside the weights that `base`
    /// gives; `base` is asked for an adapter only.
    ///
    /// # Errors
    /// As [`RewardModel::load`], those of `base`, and when the adapter was trained beside other weights.
    pub fn load_beside(
        path: &Path,
        base: impl FnOnce() -> Result<CausalLm, RewardModelError>,
    ) -> Result<RewardModel, RewardModelError> {
        let source = Checkpoint::read(path)?;
        if !is_adapter(&source.metadata) {
            return Self::from_checkpoint(source, &Device::Cpu);
        }
        let base = base()?;
        let (expected, got) = (source.metadata.string(BASE)?, base.trunk().fingerprint()?);
        if expected != got {
            return Err(RewardModelError::Base { expected: expected.to_owned(), got });
        }
        let model = ScalarModel::beside_from(&base, &source)?;
        Ok(RewardModel { base: Some(base), ..Self::with_scale(source, model)? })
    }

    /// As [`RewardModel::load`], from memory: the one that is built into the binary.
    ///
    /// # Errors
    /// As [`RewardModel::load`].
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<RewardModel, RewardModelError> {
        Self::from_checkpoint(Checkpoint::from_bytes(bytes)?, device)
    }

    fn from_checkpoint(source: Checkpoint, device: &Device) -> Result<RewardModel, RewardModelError> {
        if is_adapter(&source.metadata) {
            return Err(RewardModelError::NoBase);
        }
        let model = ScalarModel::from_checkpoint(&source, device)?;
        Self::with_scale(source, model)
    }

    fn with_scale(source: Checkpoint, model: ScalarModel) -> Result<RewardModel, RewardModelError> {
        let (gains, biases) = (read_numbers(&source, GAIN)?, read_numbers(&source, BIAS)?);
        let pairs = gains.iter().zip(&biases);
        let normalizations: Vec<_> = pairs.map(|(&gain, &bias)| Normalization { gain, bias }).collect();
        check(&normalizations, model.n_heads())?;
        let vocabulary_digest = source.metadata.string(VOCABULARY)?.to_owned();
        let (combination, base) = (Combination::default(), None);
        Ok(RewardModel { model, normalizations, combination, vocabulary_digest, source, base })
    }

    /// Writes the file whole or not at all, and returns its digest: the reward model's version.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, path: &Path) -> Result<Digest, RewardModelError> {
        Ok(self.source.write(path)?)
    }

    /// Refuses a policy that speaks other tokens; `policy` is the digest that its vocabulary reports.
    ///
    /// # Errors
    /// When the digests differ.
    pub fn check_vocabulary(&self, policy: &str) -> Result<(), RewardModelError> {
        if self.vocabulary_digest == policy {
            return Ok(());
        }
        Err(RewardModelError::Vocabulary { expected: self.vocabulary_digest.clone(), got: policy.to_owned() })
    }

    /// Normalised scores of whole sequences (prompt, response, end token), in their order. Call it inside a learner pool.
    ///
    /// # Errors
    /// When a sequence is empty, has a token outside the vocabulary, or the device fails.
    pub fn score(&self, sequences: &[Vec<TokenId>]) -> Result<Vec<f64>, RewardModelError> {
        Ok(self.judge(sequences)?.into_iter().map(|judgement| judgement.score).collect())
    }

    /// As [`RewardModel::score`], with how far the members of an ensemble are apart. Call it inside a learner pool.
    ///
    /// # Errors
    /// As [`RewardModel::score`].
    pub fn judge(&self, sequences: &[Vec<TokenId>]) -> Result<Vec<Judgement>, RewardModelError> {
        let raw = member_scores(&self.model, sequences)?;
        Ok(raw.iter().map(|members| self.judgement(members)).collect())
    }

    fn judgement(&self, raw: &[f64]) -> Judgement {
        let maps = self.normalizations.iter();
        let members: Vec<f64> = maps.zip(raw).map(|(map, raw)| map.apply(*raw)).collect();
        let together = ensemble(&members).expect("a scalar model has a head");
        let std = (members.len() > 1).then(|| together.variance.sqrt());
        Judgement { score: self.combination.of(&together), std }
    }

    /// Trunk, heads and metadata, f32.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.source
    }

    /// What a value model starts from: the trunk with one head, and the map from its output to scores.
    ///
    /// Of an ensemble it is the members' mean, maps folded in: `w = (1/M) Σ gain_m·w_m`,
    /// `b = (1/M) Σ gain_m·b_m + bias_m`, and the map is the identity. What a pessimistic combination takes off the mean is
    /// for the value model to learn.
    ///
    /// # Errors
    /// When memory fails.
    pub fn value_start(&self) -> Result<(Checkpoint, Normalization), RewardModelError> {
        if let [normalization] = self.normalizations[..] {
            return Ok((self.source.clone(), normalization));
        }
        let n = self.normalizations.len();
        let share = 1.0 / n as f64;
        let numbers = |of: fn(&Normalization) -> f64| -> Vec<f32> {
            self.normalizations.iter().map(|map| (share * of(map)) as f32).collect()
        };
        let folded = || -> candle_core::Result<(Tensor, Tensor)> {
            let gains = Tensor::from_vec(numbers(|map| map.gain), (1, n), &Device::Cpu)?; // [1, heads]
            let biases = Tensor::from_vec(numbers(|map| map.bias), n, &Device::Cpu)?.sum_keepdim(0)?; // [1]
            let weight = gains.matmul(&self.source.tensors[HEAD_WEIGHT])?; // [1, hidden]
            let bias = gains.matmul(&self.source.tensors[HEAD_BIAS].unsqueeze(1)?)?.squeeze(1)?; // [1]
            Ok((weight, (bias + biases)?))
        };
        let (weight, bias) = folded().map_err(ModelError::from)?;
        let mut checkpoint = self.source.clone();
        checkpoint.tensors.insert(HEAD_WEIGHT.to_owned(), weight);
        checkpoint.tensors.insert(HEAD_BIAS.to_owned(), bias);
        Ok((checkpoint, Normalization { gain: 1.0, bias: 0.0 }))
    }

    /// The weights that it shares, when it is an adapter that was loaded beside some.
    #[must_use]
    pub fn base(&self) -> Option<&CausalLm> {
        self.base.as_ref()
    }

    /// The maps from raw outputs to scores, one for each head.
    #[must_use]
    pub fn normalizations(&self) -> &[Normalization] {
        &self.normalizations
    }

    /// Heads; more than one make an ensemble.
    #[must_use]
    pub fn n_members(&self) -> usize {
        self.normalizations.len()
    }

    /// How the members' scores become one.
    #[must_use]
    pub fn combination(&self) -> Combination {
        self.combination
    }
}

#[cfg(test)]
mod tests;
