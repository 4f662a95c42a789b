//! The reward model: a policy's trunk with one scalar instead of a vocabulary.
//!
//! It reads prompt and response together and judges at the last token, the end token included. What leaves this module is
//! always normalised: gain and bias lie in the file beside the head, and a file without them is refused, because a raw
//! output on a policy that expects normalised scores changes what the KL coefficient means. The digest of the vocabulary
//! that it was trained on lies there too: scores of other tokens would be noise that looks like numbers.

use std::path::Path;

use candle_core::{Device, quantized::gguf_file::Value};
use policy::{
    TokenId,
    checkpoint::{Checkpoint, Digest, WeightType},
    model_error::ModelError,
    scalar_model::ScalarModel,
    sequence_batch::{Sequence, SequenceBatch},
    sft::balance,
    threads::pieces_min,
};
use rayon::prelude::*;

use crate::normalization::Normalization;

const GAIN: &str = "honed.reward.gain";
const BIAS: &str = "honed.reward.bias";
const VOCABULARY: &str = "honed.reward.vocabulary_digest";

/// Tokens in one forward pass of scoring; bounds memory.
const PASS_TOKENS: usize = 2048;

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
    /// Reading, writing or computing failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A trained reward model with the map from its raw output to a score.
pub struct RewardModel {
    model: ScalarModel,
    normalization: Normalization,
    vocabulary_digest: String,
    source: Checkpoint,
}

impl RewardModel {
    /// A model fresh from training. `policy` is the checkpoint it was built on: its metadata (shape, vocabulary) and file
    /// types go into the reward model's file.
    ///
    /// # Errors
    /// When the normalization is not finite or its gain not positive, or the weights cannot be copied.
    pub fn new(
        model: ScalarModel,
        policy: &Checkpoint,
        normalization: Normalization,
        weight_type: WeightType,
    ) -> Result<RewardModel, RewardModelError> {
        check(normalization)?;
        let vocabulary_digest = policy.metadata.vocabulary_digest();
        let mut source = model.to_checkpoint(policy, weight_type)?;
        source.metadata.set(GAIN, Value::F64(normalization.gain));
        source.metadata.set(BIAS, Value::F64(normalization.bias));
        source.metadata.set(VOCABULARY, Value::String(vocabulary_digest.clone()));
        Ok(RewardModel { model, normalization, vocabulary_digest, source })
    }

    /// Reads a reward model's file.
    ///
    /// # Errors
    /// When it is no GGUF, has no head, or lacks gain, bias or vocabulary digest.
    pub fn load(path: &Path, device: &Device) -> Result<RewardModel, RewardModelError> {
        Self::from_checkpoint(Checkpoint::read(path)?, device)
    }

    /// As [`RewardModel::load`], from memory: the one that is built into the binary.
    ///
    /// # Errors
    /// As [`RewardModel::load`].
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<RewardModel, RewardModelError> {
        Self::from_checkpoint(Checkpoint::from_bytes(bytes)?, device)
    }

    fn from_checkpoint(source: Checkpoint, device: &Device) -> Result<RewardModel, RewardModelError> {
        let number = |key| source.metadata.f64(key).map_err(|e| RewardModelError::Normalization(e.to_string()));
        let normalization = Normalization { gain: number(GAIN)?, bias: number(BIAS)? };
        check(normalization)?;
        let vocabulary_digest = source.metadata.string(VOCABULARY)?.to_owned();
        let model = ScalarModel::from_checkpoint(&source, device)?;
        Ok(RewardModel { model, normalization, vocabulary_digest, source })
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
        let raw = raw_scores(&self.model, sequences)?;
        Ok(raw.into_iter().map(|raw| self.normalization.apply(raw)).collect())
    }

    /// Trunk, head and metadata, f32: what a value model starts from.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.source
    }

    /// The map from raw output to score.
    #[must_use]
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }
}

fn check(normalization: Normalization) -> Result<(), RewardModelError> {
    let Normalization { gain, bias } = normalization;
    if gain.is_finite() && gain > 0.0 && bias.is_finite() {
        return Ok(());
    }
    Err(RewardModelError::Normalization(format!("gain {gain}, bias {bias}")))
}

/// Outputs of the head at each sequence's last token, before normalization, in their order.
///
/// # Errors
/// When a sequence is empty, has a token outside the vocabulary, or the device fails.
pub fn raw_scores(model: &ScalarModel, sequences: &[Vec<TokenId>]) -> Result<Vec<f64>, ModelError> {
    let numbered: Vec<(usize, &Vec<TokenId>)> = sequences.iter().enumerate().collect();
    let passes = balance(&numbered, |(_, s)| s.len(), PASS_TOKENS, pieces_min(model.parameters()));
    let scored: Vec<Result<Vec<(usize, f64)>, ModelError>> = model.open(|model| {
        let score = |pass: &Vec<&(usize, &Vec<TokenId>)>| {
            let rows = pass.iter().map(|(_, tokens)| Sequence { tokens: (*tokens).clone(), prompt_len: 0 });
            let scores = model.scores_at_last(&SequenceBatch::new(rows.collect()))?;
            Ok(pass.iter().zip(scores).map(|((i, _), score)| (*i, f64::from(score))).collect())
        };
        Ok(passes.par_iter().map(score).collect())
    })?;
    let mut out = vec![f64::NAN; sequences.len()];
    for pass in scored {
        pass?.into_iter().for_each(|(i, score)| out[i] = score);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
