//! The models that one update works on.

use std::collections::BTreeMap;

use candle_core::Device;
use policy::{
    causal_lm::CausalLm,
    checkpoint::Checkpoint,
    kernels::Precision,
    model_error::ModelError,
    optimizer::{AdamConfig, AdamW},
    scalar_model::ScalarModel,
    threads::is_small_of,
    transformer::{Adapter, Keep, LoraShape, Transformer, is_adapter, merged},
};

use crate::{
    averaging::WeightAverage, control::ControlState, error::PpoError, form::Form, snapshot::Snapshot, state::Half,
};

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
    /// A round failed midway and could not be put back ([`crate::snapshot`]): make the models anew.
    pub is_spoilt: bool,
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
        let policy = match is_adapter(&policy.metadata) {
            true => CausalLm::from_checkpoint(&merged(reference, policy)?, device)?,
            false => CausalLm::from_checkpoint(policy, device)?,
        };
        let reference = frozen(reference, config, device)?;
        Models::of(policy.with_precision(reference.precision()), reference, value, config)
    }

    /// Models that share the weights of `reference` ([`frozen`]), each beside its own adapter.
    ///
    /// - `policy`: an adapter to go on from, or version 0 itself for a new one;
    /// - `value`: one that shares the same weights already, or a new one that says 0.
    ///
    /// # Errors
    /// [`PpoError::WholeModel`] when `policy` is neither; when an adapter does not fit, or memory fails.
    pub fn beside(
        reference: CausalLm,
        policy: &Checkpoint,
        value: Option<ScalarModel>,
        config: &config::Ppo,
    ) -> Result<Models, PpoError> {
        let (shape, device) = (reference.trunk().shape(), reference.trunk().device());
        let lora = LoraShape { rank: config.lora_rank, alpha: config.lora_alpha as f32 };
        let new = |seed| Adapter::new(shape, lora, seed, device);
        let adapter = match is_adapter(&policy.metadata) {
            // With its own rank and alpha.
            true => Adapter::from_checkpoint(policy, shape, device)?,
            false if reference.trunk().is(policy)? => new(config.seed)?,
            false => return Err(PpoError::WholeModel),
        };
        let value = match value {
            Some(value) => value,
            None => ScalarModel::beside(&reference, new(!config.seed)?)?,
        };
        Models::of(reference.clone().with_adapter(adapter), reference, value, config)
    }

    /// Models that share the weights of `reference`, for a state to be put into: adapters of these forms that change nothing,
    /// and a value model that says 0.
    ///
    /// # Errors
    /// When a rank is 0 or memory fails.
    pub(crate) fn blank(
        reference: CausalLm,
        [policy, value]: [LoraShape; 2],
        config: &config::Ppo,
    ) -> Result<Models, PpoError> {
        let (shape, device) = (reference.trunk().shape(), reference.trunk().device());
        let [adapter, of_value] = [policy, value].map(|lora| Adapter::new(shape, lora, config.seed, device));
        let (adapter, value) = (adapter?, ScalarModel::beside(&reference, of_value?)?);
        Models::of(reference.clone().with_adapter(adapter), reference, value, config)
    }

    /// Rank and alpha of the policy; the value model's may be others, where it began as an adapter of the reward model or learnt
    /// on beside another adapter.
    pub(crate) fn form(&self) -> Form {
        Half::Policy.form(self)
    }

    fn of(policy: CausalLm, reference: CausalLm, value: ScalarModel, config: &config::Ppo) -> Result<Models, PpoError> {
        let (adam, precision) = (adam(config), reference.precision());
        let keep = keep(config);
        let (policy_optimizer, value_optimizer) =
            (AdamW::new(policy.parameters(), adam)?, AdamW::new(value.parameters(), adam)?);
        // What learns beside frozen weights has no copies to be kept in step.
        let is_whole = |trunk: &Transformer| trunk.adapter().is_none();
        Ok(Models {
            policy_optimizer: match is_whole(policy.trunk()) {
                true => policy_optimizer.keeping(policy.rounded()),
                false => policy_optimizer,
            },
            value_optimizer: match is_whole(value.trunk()) {
                true => value_optimizer.keeping(value.rounded()),
                false => value_optimizer,
            },
            policy: policy.with_keep(keep),
            value: value.with_precision(precision).with_keep(keep),
            reference,
            kl_coef: config.kl_coef,
            is_spoilt: false,
            control: ControlState::default(),
            average: None,
        })
    }

    /// The same models beside another copy of version 0 ([`frozen`]), with their matrix products in its precision. Weights, moments
    /// and what is remembered stay as they are.
    ///
    /// # Errors
    /// When memory fails.
    pub(crate) fn beside_other(self, reference: CausalLm, config: &config::Ppo) -> Result<Models, PpoError> {
        let policy = match self.policy.trunk().adapter() {
            Some(adapter) => reference.clone().with_adapter(adapter.clone()).with_keep(keep(config)),
            None => self.policy.with_precision(reference.precision()),
        };
        let models = Models { policy, value: self.value.moved_beside(&reference)?, reference, ..self };
        // Copies that nobody may read any more.
        Half::ALL.into_iter().for_each(|half| half.forget_rounded(&models));
        Ok(models)
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

    /// What a round may have to go back to: everything, or beyond `ppo.snapshot_mib` the policy's weights.
    ///
    /// # Errors
    /// When memory fails.
    pub fn snapshot(&self, config: &config::Ppo) -> Result<Snapshot, PpoError> {
        Snapshot::of(self, config)
    }

    /// Goes back to a snapshot, bit for bit; from one that is not whole, marks the models as spoilt.
    ///
    /// # Errors
    /// When the snapshot is of other models.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), PpoError> {
        snapshot.restore(self)
    }

    /// Goes back with the policy only, and its optimiser where the snapshot is whole: the value model's lessons stay true.
    ///
    /// # Errors
    /// When the snapshot is of other models.
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

/// Version 0 as all roles read it: frozen, in the precision of the arithmetic.
///
/// # Errors
/// When the architecture cannot be trained, or the precision is not to be had.
pub fn frozen(reference: &Checkpoint, config: &config::Ppo, device: &Device) -> Result<CausalLm, PpoError> {
    let reference = CausalLm::from_checkpoint(reference, device)?;
    let precision = precision(&reference, config)?;
    Ok(reference.with_precision(precision).frozen()?)
}

/// What `ppo.dtype` means for models like this one.
///
/// # Errors
/// When the precision is not to be had on this machine.
pub(crate) fn precision(reference: &CausalLm, config: &config::Ppo) -> Result<Precision, ModelError> {
    let trunk = reference.trunk();
    match trunk.device().is_cpu() {
        true => Precision::choose(&config.dtype, is_small_of(trunk.shape().n_parameters())),
        false => Ok(Precision::on_gpu(&config.dtype)),
    }
}

fn keep(config: &config::Ppo) -> Keep {
    if config.activation_checkpointing { Keep::Inputs } else { Keep::All }
}

/// The constants of both optimisers.
fn adam(config: &config::Ppo) -> AdamConfig {
    AdamConfig { beta1: config.adam_beta1, beta2: config.adam_beta2, eps: config.adam_eps, weight_decay: 0.0 }
}
