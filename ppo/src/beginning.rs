//! What a learner begins with when no update came before: version 0, and a value model that nobody has trained yet.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use policy::{
    architecture::llama::TOKEN_EMBEDDING, causal_lm::CausalLm, checkpoint::Checkpoint, sequence_batch::Sequence,
};
use reward::normalization::Normalization;

use crate::{
    error::PpoError,
    fingerprint::Fingerprinter,
    form::{self, Form},
    models::{self, Models},
    value_model,
};

/// Where the value model starts.
#[derive(Clone)]
pub enum ValueStart {
    /// As the reward model, its normalisation folded in.
    RewardModel {
        /// Trunk and head.
        checkpoint: Box<Checkpoint>,
        /// The map that its scores are served with.
        normalization: Normalization,
        /// Version 0's weights in memory already, when the reward model is an adapter beside them.
        base: Option<Box<CausalLm>>,
    },
    /// As the policy's trunk with a head of zeros: nobody trained a reward model for this policy.
    Policy,
}

/// What models are made from.
pub struct Beginning {
    source: Checkpoint,
    value_start: ValueStart,
    device: Device,
    pretraining: Arc<[Sequence]>,
    pretraining_digest: String,
}

impl Beginning {
    /// Reads version 0 from `sft`.
    ///
    /// # Errors
    /// When the file cannot be read, or `ppo.device` is not there.
    pub fn new(sft: &Path, value_start: ValueStart, config: &config::Ppo) -> Result<Beginning, PpoError> {
        let device = policy::kernels::device(&config.device).map_err(PpoError::Device)?;
        let (pretraining, pretraining_digest) = ([].into(), String::new());
        Ok(Beginning { source: Checkpoint::read(sft)?, value_start, device, pretraining, pretraining_digest })
    }

    /// With the texts of `ppo.ptx`.
    #[must_use]
    pub fn with_pretraining(self, pretraining: Arc<[Sequence]>) -> Beginning {
        let mut taking = Fingerprinter::new();
        for example in pretraining.iter() {
            taking.text(&format!("{:?}", example));
        }
        let digest = if pretraining.is_empty() { String::new() } else { taking.finish().to_string() };
        Beginning { pretraining, pretraining_digest: digest, ..self }
    }

    /// The texts of `ppo.ptx`.
    #[must_use]
    pub fn pretraining(&self) -> &[Sequence] {
        &self.pretraining
    }

    /// Fingerprint of the texts that this configuration mixes in; empty when it mixes none.
    #[must_use]
    pub fn pretraining_digest(&self, config: &config::Ppo) -> String {
        if config.ptx == "off" { String::new() } else { self.pretraining_digest.clone() }
    }

    /// Version 0: the reference, and metadata and types of published files.
    #[must_use]
    pub fn source(&self) -> &Checkpoint {
        &self.source
    }

    /// Models with these weights, fresh moments, and the value model at its beginning.
    ///
    /// # Errors
    /// When an architecture cannot be trained, or memory fails.
    pub fn models(&self, weights: &Checkpoint, config: &config::Ppo) -> Result<Models, PpoError> {
        if config.lora_rank > 0 {
            return self.beside(weights, config);
        }
        let value = match &self.value_start {
            ValueStart::Policy => value_model::from_policy(&self.source, &self.device)?,
            ValueStart::RewardModel { checkpoint, normalization, .. } => {
                let vocab_size = self.source.tensor(TOKEN_EMBEDDING)?.dim(0)?;
                let whole = value_model::whole(&self.source, checkpoint)?;
                value_model::from_reward_model(&whole, *normalization, vocab_size, &self.device)?
            }
        };
        Models::new(weights, &self.source, value, config, &self.device)
    }

    /// The same with adapters. The reward model's weights are shared where they are version 0's and lie on the same device; its
    /// adapter is where the value model starts.
    fn beside(&self, weights: &Checkpoint, config: &config::Ppo) -> Result<Models, PpoError> {
        let reference = self.reference(config)?;
        let value = match &self.value_start {
            ValueStart::RewardModel { checkpoint, normalization, base: Some(_) } => {
                Some(value_model::beside(&reference, checkpoint, *normalization)?)
            }
            _ => None,
        };
        Models::beside(reference, weights, value, config)
    }

    fn reference(&self, config: &config::Ppo) -> Result<CausalLm, PpoError> {
        match &self.value_start {
            // An update that is computed again may have had another `ppo.dtype` than the daemon of today.
            ValueStart::RewardModel { base: Some(base), .. }
                if self.device.is_cpu() && base.precision() == models::precision(base, config)? =>
            {
                Ok(CausalLm::clone(base))
            }
            _ => models::frozen(&self.source, config, &self.device),
        }
    }

    /// Models for a state to be put into whose policy and value model have these forms. Their own numbers mean nothing.
    ///
    /// # Errors
    /// As [`Beginning::models`].
    pub(crate) fn blank(&self, forms: [Form; 2], config: &config::Ppo) -> Result<Models, PpoError> {
        match forms {
            [Some(policy), Some(value)] => Models::blank(self.reference(config)?, [policy, value], config),
            [policy, _] => self.models(&self.source, &form::configured(config, policy)),
        }
    }

    /// The same models in the precision that this configuration asks for: an update is computed in that of its record.
    ///
    /// # Errors
    /// When it is not to be had on this machine, or memory fails.
    pub(crate) fn in_precision(&self, models: Models, config: &config::Ppo) -> Result<Models, PpoError> {
        if models.reference.precision() == models::precision(&models.reference, config)? {
            return Ok(models);
        }
        models.beside_other(self.reference(config)?, config)
    }

    /// Where the value model starts, in words.
    pub(crate) fn value_start(&self) -> &'static str {
        match &self.value_start {
            ValueStart::RewardModel { .. } => "as the configured reward model",
            ValueStart::Policy => "as the policy with a head of zeros",
        }
    }

    /// Models with these weights and fresh moments. The value model keeps what it learnt, unless it learnt in whole weights and
    /// adapters are wanted, or the other way round: then it is at its beginning too.
    ///
    /// # Errors
    /// When memory fails.
    pub fn rebased(&self, models: Models, weights: &Checkpoint, config: &config::Ppo) -> Result<Models, PpoError> {
        let models = self.in_precision(models, config)?;
        let Models { value, reference, mut control, .. } = models;
        let models = match (value.trunk().adapter().is_some(), config.lora_rank > 0) {
            (false, false) => Models::new(weights, &self.source, value, config, &self.device)?,
            (true, true) => Models::beside(reference, weights, Some(value), config)?,
            _ => {
                drop((value, reference));
                // The value model begins again, and has to be warmed again.
                control.n_value_rounds = 0;
                self.models(weights, config)?
            }
        };
        control.n_policy_rounds = 0;
        // Gradients of other parameters, or at other weights, have other norms.
        control.forget_steps();
        // Otherwise the value model is as warm as it was; and the text goes on where it stopped.
        Ok(Models { control, ..models })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use policy::{PolicyVersion, TokenId, kernels::Precision};

    use super::*;
    use crate::{
        state,
        test_world::{World, served_model, share_of},
        update::Round,
    };

    fn bf16(models: Models, beginning: &Beginning, config: &config::Ppo) -> Models {
        let source = CausalLm::from_checkpoint(beginning.source(), &Device::Cpu).unwrap();
        let reference = source.with_precision(Precision::Bf16).frozen().unwrap();
        models.beside_other(reference, config).unwrap()
    }

    /// Goal: models that were read in one precision compute an update in another to the bits of models that were made in it. Method:
    /// models of both forms in f32, and the same by way of bf16, whose matrices beside an adapter are all that there is of them.
    #[test]
    fn an_update_is_computed_in_the_precision_of_its_record() {
        for lora_rank in [0, 2] {
            let world = World::new(61);
            let config = config::Ppo { lora_rank, ..world.config.clone() };
            let dir = tempfile::tempdir().unwrap();
            let sft = dir.path().join("sft.gguf");
            served_model().write(&sft).unwrap();
            let beginning = Beginning::new(&sft, ValueStart::Policy, &config).unwrap();
            let after = |by_way_of_bf16: bool| {
                let mut models = beginning.models(beginning.source(), &config).unwrap();
                if by_way_of_bf16 {
                    models = bf16(models, &beginning, &config);
                    assert_eq!([models.policy.precision(), models.value.precision()], [Precision::Bf16; 2]);
                }
                let mut models = beginning.in_precision(models, &config).unwrap();
                assert_eq!([models.policy.precision(), models.value.precision()], [Precision::F32; 2]);
                let rollouts = World::new(61).rollouts(16, share_of(TokenId(3)));
                let lineage = [PolicyVersion::SFT];
                for update in 0..2 {
                    let round = Round { config: &config, update, lineage: &lineage, pretraining: &[] };
                    let outcome = round.run(&mut models, &rollouts, &mut || ControlFlow::Continue(())).unwrap();
                    assert!(outcome.stats.n_tokens > 0);
                }
                state::fingerprint(&models, 2).unwrap()
            };
            assert_eq!(after(false), after(true), "rank {lora_rank}");
        }
    }

    /// Goal: fresh moments are warmed up, however old the folder is. Method: models that have learnt for some rounds go over to other
    /// weights; the rates of the round before and of the one after.
    #[test]
    fn fresh_moments_begin_at_a_tenth_of_the_rate() {
        let config = config::Ppo { warmup_updates: 2, ..World::new(62).config };
        let dir = tempfile::tempdir().unwrap();
        let sft = dir.path().join("sft.gguf");
        served_model().write(&sft).unwrap();
        let beginning = Beginning::new(&sft, ValueStart::Policy, &config).unwrap();
        let mut models = beginning.models(beginning.source(), &config).unwrap();
        let rollouts = World::new(62).rollouts(8, share_of(TokenId(3)));
        let lineage = [PolicyVersion::SFT];
        let share = |models: &mut Models, update| {
            // The rollouts are another model's.
            let config = config::Ppo { importance: "off".to_string(), ..config.clone() };
            let round = Round { config: &config, update, lineage: &lineage, pretraining: &[] };
            let outcome = round.run(models, &rollouts, &mut || ControlFlow::Continue(())).unwrap();
            assert!(outcome.has_new_policy());
            outcome.stats.policy_learning_rate / config.policy_learning_rate
        };
        let shares: Vec<f64> = (0..3).map(|update| share(&mut models, update)).collect();
        assert_eq!(shares, [0.1, 0.55, 1.0]);
        let mut models = beginning.rebased(models, beginning.source(), &config).unwrap();
        assert_eq!(share(&mut models, 3), 0.1);
    }
}
