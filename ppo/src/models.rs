//! The models that one update works on, and how to go back to where it began.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use policy::{
    causal_lm::CausalLm,
    checkpoint::Checkpoint,
    kernels::Precision,
    optimizer::{AdamConfig, AdamState, AdamW},
    scalar_model::ScalarModel,
    threads::is_small,
    transformer::Keep,
};

use crate::{control::ControlState, error::PpoError};

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
    /// What else is remembered between rounds. Persist it with the optimisers.
    pub control: ControlState,
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
        let adam =
            AdamConfig { beta1: config.adam_beta1, beta2: config.adam_beta2, eps: config.adam_eps, weight_decay: 0.0 };
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
            control: ControlState::default(),
        })
    }

    /// Everything that a round changes, as it is now.
    ///
    /// # Errors
    /// When memory fails.
    pub fn snapshot(&self) -> Result<Snapshot, PpoError> {
        Ok(Snapshot {
            policy: copies(self.policy.parameters())?,
            value: copies(self.value.parameters())?,
            policy_optimizer: self.policy_optimizer.state().copy()?,
            value_optimizer: self.value_optimizer.state().copy()?,
            kl_coef: self.kl_coef,
            control: self.control.clone(),
        })
    }

    /// Goes back to a snapshot, bit for bit.
    ///
    /// # Errors
    /// When the snapshot is of other models.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), PpoError> {
        self.restore_policy(snapshot)?;
        put_back(self.value.parameters(), &snapshot.value)?;
        self.value_optimizer.restore(snapshot.value_optimizer.copy()?)?;
        self.kl_coef = snapshot.kl_coef;
        self.control = snapshot.control.clone();
        Ok(())
    }

    /// Goes back with the policy and its optimiser only: the value model's lessons stay true.
    ///
    /// # Errors
    /// When the snapshot is of other models.
    pub fn restore_policy(&mut self, snapshot: &Snapshot) -> Result<(), PpoError> {
        put_back(self.policy.parameters(), &snapshot.policy)?;
        Ok(self.policy_optimizer.restore(snapshot.policy_optimizer.copy()?)?)
    }
}

/// Weights, moments, β and memories at one moment.
pub struct Snapshot {
    policy: BTreeMap<String, Tensor>,
    value: BTreeMap<String, Tensor>,
    policy_optimizer: AdamState,
    value_optimizer: AdamState,
    kl_coef: f64,
    control: ControlState,
}

fn copies(parameters: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Tensor>, PpoError> {
    // A real copy: the optimiser writes into the variable's storage.
    parameters.iter().map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?))).collect()
}

fn put_back(parameters: &BTreeMap<String, Var>, saved: &BTreeMap<String, Tensor>) -> Result<(), PpoError> {
    for (name, var) in parameters {
        if let Some(tensor) = saved.get(name) {
            var.set(tensor)?;
        }
    }
    Ok(())
}
