//! The models that one update works on.

use std::{collections::BTreeMap, path::PathBuf};

use candle_core::Device;
use policy::{
    causal_lm::CausalLm,
    checkpoint::Checkpoint,
    kernels::Precision,
    optimizer::{AdamConfig, AdamW},
    scalar_model::ScalarModel,
    threads::is_small,
    transformer::Keep,
};

use crate::{averaging::WeightAverage, control::ControlState, error::PpoError, snapshot::Snapshot, state::Half};

/// β's name among the numbers.
const KL_COEF: &str = "kl_coef";

/// Policy, reference and value model, the optimisers of the two that learn, β, and what is remembered between rounds.
pub struct Models {
    /// Under gradient; becomes the next version.
    pub policy: CausalLm,
    /// Version 0, frozen: what the KL penalty measures from.
    pub reference: CausalLm,
    /// Predicts the rest of the return before every token.
    pub value: ScalarModel,
    /// The policy's Adam.
    pub policy_optimizer: AdamW,
    /// The value model's Adam.
    pub value_optimizer: AdamW,
    /// β now, per nat; moves when `ppo.kl_adaptive`. Persist it with the optimisers.
    pub kl_coef: f64,
    /// Where a snapshot goes that is too large for memory; without a folder every snapshot stays in memory.
    pub scratch: Option<PathBuf>,
    /// What else is remembered between rounds. Persist it with the optimisers.
    pub control: ControlState,
    /// The moving average of the policy's weights, once a round with `ppo.ema_decay` has begun it. Persist it too.
    pub average: Option<WeightAverage>,
}

impl Models {
    /// Models with fresh optimisers and β from the config.
    ///
    /// - `policy`: the weights to go on from; `reference`: version 0; `value`: from [`crate::value_model`], or a saved one.
    ///
    /// # Errors
    /// When an architecture cannot be trained, or memory fails.
    pub fn new(
        policy: &Checkpoint,
        reference: &Checkpoint,
        value: ScalarModel,
        config: &config::Ppo,
        device: &Device,
    ) -> Result<Models, PpoError> {
        let adam = adam(config);
        let policy = CausalLm::from_checkpoint(policy, device)?;
        let precision = Precision::choose(&config.dtype, is_small(policy.parameters()))?;
        let keep = if config.activation_checkpointing { Keep::Inputs } else { Keep::All };
        Ok(Models {
            policy_optimizer: AdamW::new(policy.parameters(), adam)?,
            value_optimizer: AdamW::new(value.parameters(), adam)?,
            reference: CausalLm::from_checkpoint(reference, device)?.with_precision(precision),
            policy: policy.with_precision(precision).with_keep(keep),
            value: value.with_precision(precision).with_keep(keep),
            kl_coef: config.kl_coef,
            scratch: None,
            control: ControlState::default(),
            average: None,
        })
    }

    /// Every number beside tensors that a round changes, by name: β and what is remembered. What a saved state must hold of
    /// them, whatever they are.
    #[must_use]
    pub fn control(&self) -> BTreeMap<String, f64> {
        let mut numbers = self.control.numbers();
        numbers.insert(KL_COEF.to_string(), self.kl_coef);
        numbers
    }

    /// Takes over the numbers of [`Models::control`], exactly: what they do not name is at its start again, but for β, which a
    /// config decides where no number does.
    pub fn set_control(&mut self, numbers: &BTreeMap<String, f64>) {
        self.control = ControlState::from_numbers(numbers);
        self.kl_coef = numbers.get(KL_COEF).copied().unwrap_or(self.kl_coef);
    }

    /// Everything that a round changes, as it is now.
    ///
    /// # Errors
    /// When memory or the folder for large snapshots fails.
    pub fn snapshot(&self) -> Result<Snapshot, PpoError> {
        Snapshot::of(self)
    }

    /// Goes back to a snapshot, bit for bit.
    ///
    /// # Errors
    /// When the snapshot is of other models, or cannot be read.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), PpoError> {
        snapshot.restore(self)
    }

    /// Goes back with the policy and its optimiser only: the value model's lessons stay true.
    ///
    /// # Errors
    /// When the snapshot is of other models, or cannot be read.
    pub fn restore_policy(&mut self, snapshot: &Snapshot) -> Result<(), PpoError> {
        snapshot.restore_policy(self)
    }

    /// What the configuration says anew before every round: a controller's coefficient is state, a fixed one is the
    /// operator's word of today.
    pub fn prepare(&mut self, config: &config::Ppo) {
        if !config.kl_adaptive {
            self.kl_coef = config.kl_coef;
        }
    }

    /// Goes on with other constants of Adam, its moments as they are.
    ///
    /// # Errors
    /// When memory fails.
    pub fn set_adam(&mut self, config: &config::Ppo) -> Result<(), PpoError> {
        for half in Half::ALL {
            half.optimizer_mut(self).set_config(adam(config));
        }
        Ok(())
    }
}

/// The constants of both optimisers.
fn adam(config: &config::Ppo) -> AdamConfig {
    AdamConfig { beta1: config.adam_beta1, beta2: config.adam_beta2, eps: config.adam_eps, weight_decay: 0.0 }
}
