//! A reward model's first words, before anybody relies on it.

use policy::TokenId;

use super::{RewardModel, RewardModelError, member_scores};

/// Tokens of the longer text.
const TOKENS: usize = 16;

impl RewardModel {
    /// Has every head judge one token, and the first few tokens of the vocabulary: weights that are not finite show here.
    ///
    /// # Errors
    /// [`RewardModelError::NotFinite`], and as [`RewardModel::score`].
    pub fn check_scores(&self) -> Result<(), RewardModelError> {
        let n_vocab = self.model.trunk().shape().vocab_size;
        let text = |n: usize| (0..n.min(n_vocab)).map(|id| TokenId(id as u32)).collect::<Vec<_>>();
        let raw = member_scores(&self.model, &[text(1), text(TOKENS)])?;
        let mut scores =
            raw.iter().flat_map(|heads| self.normalizations.iter().zip(heads).map(|(map, x)| map.apply(*x)));
        match scores.find(|score| !score.is_finite()) {
            Some(score) => Err(RewardModelError::NotFinite(score)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use policy::{
        architecture::Shape,
        checkpoint::WeightType,
        scalar_model::{HEAD_BIAS, ScalarModel},
        transformer::random_checkpoint,
    };

    use super::*;
    use crate::normalization::Normalization;

    #[test]
    fn heads_that_say_no_number_are_found() {
        let policy = random_checkpoint(&Shape::llama(11, 16, 2, 4, 2, 24), 3).unwrap();
        let head = ScalarModel::from_policy_with_heads(&policy, 2, 1, &Device::Cpu).unwrap();
        let maps = [Normalization { gain: 1.0, bias: 0.0 }; 2];
        let mut file = RewardModel::new(head, &policy, &maps, WeightType::F32).unwrap().checkpoint().clone();
        let with_bias = |file: &mut policy::checkpoint::Checkpoint, second: f32| {
            let biases = Tensor::new(&[0.5_f32, second], &Device::Cpu).unwrap();
            file.tensors.insert(HEAD_BIAS.to_owned(), biases);
            RewardModel::from_bytes(&file.to_bytes().unwrap(), &Device::Cpu).unwrap().check_scores()
        };
        assert!(with_bias(&mut file, 0.5).is_ok());
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(matches!(with_bias(&mut file, bad), Err(RewardModelError::NotFinite(_))), "{bad}");
        }
    }
}
