//! The value model: what the rest of a response is worth, asked before every token.
//!
//! It starts as the reward model, trunk *and* head (InstructGPT section 3.5; S20; N+, arXiv 2403.17031): the reward model
//! already knows what a good ending looks like, and a value model that must learn this from scores alone gives the policy
//! nothing but noise for its first rounds. The reward model's gain and bias are folded into the copied head, so V is on
//! the scale of the normalised scores from its first word. Where nobody trained a reward model (a reward server,
//! feedback), the policy's trunk with a head of zeros is the start: V = 0, which is the mean of normalised scores.

use candle_core::Device;
use policy::{
    architecture::llama::OUTPUT,
    causal_lm::CausalLm,
    checkpoint::Checkpoint,
    scalar_model::{HEAD_BIAS, HEAD_WEIGHT, ScalarModel},
    transformer::{is_adapter, merged},
};
use reward::normalization::Normalization;

use crate::error::PpoError;

/// A value model that starts as the reward model.
///
/// `V = gain·(w·h + b) + bias`: the head becomes `w' = gain·w, b' = gain·b + bias`.
/// - `reward_model`: trunk and `reward_head` tensors;
/// - `normalization`: the map that its scores are served with;
/// - `vocab_size`: of the policy, whose tokens it will read.
///
/// # Errors
/// When the head or a tensor is absent, the architecture cannot be trained, or the vocabulary is another one.
pub fn from_reward_model(
    reward_model: &Checkpoint,
    normalization: Normalization,
    vocab_size: usize,
    device: &Device,
) -> Result<ScalarModel, PpoError> {
    let model = ScalarModel::from_checkpoint(&scaled(reward_model, normalization)?, device)?;
    let got = model.trunk().shape().vocab_size;
    if got != vocab_size {
        let (expected, got) = (format!("the policy's {vocab_size} tokens"), format!("a reward model of {got}"));
        return Err(PpoError::ValueModel { expected, got });
    }
    Ok(model)
}

/// The same for a reward model that is an adapter: beside the weights that it was trained on, which stay shared.
///
/// # Errors
/// When it does not fit them.
pub fn beside(
    base: &CausalLm,
    reward_model: &Checkpoint,
    normalization: Normalization,
) -> Result<ScalarModel, PpoError> {
    Ok(ScalarModel::beside_from(base, &scaled(reward_model, normalization)?)?)
}

/// A reward model as a whole: of an adapter, merged with the weights that it was trained on.
///
/// # Errors
/// When it does not fit them.
pub fn whole(base: &Checkpoint, reward_model: &Checkpoint) -> Result<Checkpoint, PpoError> {
    if !is_adapter(&reward_model.metadata) {
        return Ok(reward_model.clone());
    }
    let mut whole = merged(base, reward_model)?;
    whole.tensors.remove(OUTPUT);
    for name in [HEAD_WEIGHT, HEAD_BIAS] {
        whole.tensors.insert(name.to_owned(), reward_model.tensor(name)?.clone());
    }
    Ok(whole)
}

/// With the map from outputs to scores folded into the head.
fn scaled(reward_model: &Checkpoint, map: Normalization) -> Result<Checkpoint, PpoError> {
    let mut checkpoint = reward_model.clone();
    let weight = (reward_model.tensor(HEAD_WEIGHT)? * map.gain)?;
    let bias = reward_model.tensor(HEAD_BIAS)?.affine(map.gain, map.bias)?;
    checkpoint.tensors.insert(HEAD_WEIGHT.to_owned(), weight);
    checkpoint.tensors.insert(HEAD_BIAS.to_owned(), bias);
    Ok(checkpoint)
}

/// A value model that starts as the policy's trunk with a head of zeros: V = 0 everywhere.
///
/// # Errors
/// When the architecture cannot be trained.
pub fn from_policy(policy: &Checkpoint, device: &Device) -> Result<ScalarModel, PpoError> {
    Ok(ScalarModel::from_policy_zero_head(policy, device)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use policy::{
        TokenId,
        architecture::Shape,
        causal_lm::CausalLm,
        checkpoint::WeightType,
        scalar_model::ScalarModel,
        sequence_batch::{Sequence, SequenceBatch},
        transformer::{Adapter, LoraShape, random_checkpoint},
    };
    use reward::normalization::Normalization;

    use super::{beside, from_policy, from_reward_model, whole};
    use crate::error::PpoError;

    fn shape() -> Shape {
        Shape::llama(11, 16, 1, 2, 2, 24)
    }

    fn batch() -> SequenceBatch {
        let ids = |ids: &[u32]| ids.iter().map(|i| TokenId(*i)).collect::<Vec<_>>();
        SequenceBatch::new(vec![Sequence::new(&ids(&[1, 2, 3]), &ids(&[4, 5])), Sequence::new(&ids(&[7]), &ids(&[8]))])
    }

    fn values(model: &ScalarModel) -> Vec<f32> {
        model.values_at_response(&batch()).unwrap()
    }

    /// Goal: V starts as the normalised score. Method: the raw reward model's output at the same positions, mapped by
    /// hand.
    #[test]
    fn values_start_on_the_scale_of_normalised_scores() {
        let base = random_checkpoint(&shape(), 3).unwrap();
        let raw = ScalarModel::from_policy(&base, 5, &Device::Cpu).unwrap();
        let checkpoint = raw.to_checkpoint(&base, WeightType::F32).unwrap();
        let map = Normalization { gain: 2.5, bias: -0.75 };
        let model = from_reward_model(&checkpoint, map, 11, &Device::Cpu).unwrap();
        for (value, raw) in values(&model).iter().zip(values(&raw)) {
            assert!((f64::from(*value) - map.apply(f64::from(raw))).abs() < 1e-5, "{value} from {raw}");
        }
    }

    /// The same for an adapter, beside shared weights and merged with them.
    #[test]
    fn an_adapters_values_start_on_the_scale_of_normalised_scores() {
        let base = random_checkpoint(&shape(), 3).unwrap();
        let shared = CausalLm::from_checkpoint(&base, &Device::Cpu).unwrap();
        let adapter = Adapter::new(&shape(), LoraShape { rank: 2, alpha: 4.0 }, 1, &Device::Cpu).unwrap();
        for var in adapter.parameters().values() {
            var.set(&var.ones_like().unwrap().affine(0.1, 0.0).unwrap()).unwrap();
        }
        let raw = ScalarModel::beside_with_heads(&shared, adapter, 1, 5).unwrap();
        let checkpoint = raw.to_checkpoint(&base, WeightType::F32).unwrap();
        let map = Normalization { gain: 2.5, bias: -0.75 };
        let merged = from_reward_model(&whole(&base, &checkpoint).unwrap(), map, 11, &Device::Cpu).unwrap();
        for model in [beside(&shared, &checkpoint, map).unwrap(), merged] {
            for (value, raw) in values(&model).iter().zip(values(&raw)) {
                assert!((f64::from(*value) - map.apply(f64::from(raw))).abs() < 1e-5, "{value} from {raw}");
            }
        }
    }

    #[test]
    fn without_a_reward_model_every_value_is_zero() {
        let model = from_policy(&random_checkpoint(&shape(), 3).unwrap(), &Device::Cpu).unwrap();
        assert_eq!(values(&model), vec![0.0; 3]);
    }

    #[test]
    fn a_reward_model_of_another_vocabulary_is_refused() {
        let base = random_checkpoint(&shape(), 3).unwrap();
        let raw = ScalarModel::from_policy(&base, 5, &Device::Cpu).unwrap();
        let checkpoint = raw.to_checkpoint(&base, WeightType::F32).unwrap();
        let refused = from_reward_model(&checkpoint, Normalization { gain: 1.0, bias: 0.0 }, 12, &Device::Cpu);
        assert!(matches!(refused.err(), Some(PpoError::ValueModel { .. })));
    }
}
