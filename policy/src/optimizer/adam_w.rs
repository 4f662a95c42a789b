//! AdamW (arXiv 1412.6980 and 1711.05101) in PyTorch's form.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};

use super::{Gradient, Gradients, rule::Rule};
use crate::{
    model_error::{ModelError, Result},
    transformer::Rounded,
};

/// Constants of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the corrected second moment.
    pub eps: f64,
    /// Decoupled weight decay; matrices and vectors alike.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    /// InstructGPT's betas (appendix C), PPO's eps (lm-human-preferences), no decay.
    fn default() -> Self {
        AdamConfig { beta1: 0.9, beta2: 0.95, eps: 1e-5, weight_decay: 0.0 }
    }
}

/// First and second moment of one parameter. Not `Clone`: a clone would share its memory with the optimiser.
#[derive(Debug)]
pub struct Moments {
    /// m, the mean of gradients.
    pub first: Tensor,
    /// v, the mean of squared gradients.
    pub second: Tensor,
}

/// Everything a resumed run needs: steps taken and moments by parameter name.
#[derive(Debug, Default)]
pub struct AdamState {
    /// Steps taken.
    pub step: u64,
    /// Moments by name.
    pub moments: BTreeMap<String, Moments>,
}

impl AdamState {
    /// A copy with memory of its own: steps that follow leave it alone.
    ///
    /// # Errors
    /// When memory or the device fails.
    pub fn copy(&self) -> Result<AdamState> {
        let copy = |m: &Moments| Ok::<_, ModelError>(Moments { first: m.first.copy()?, second: m.second.copy()? });
        let moments = self.moments.iter().map(|(name, m)| Ok((name.clone(), copy(m)?))).collect::<Result<_>>()?;
        Ok(AdamState { step: self.step, moments })
    }
}

/// The optimiser of one set of parameters.
pub struct AdamW {
    config: AdamConfig,
    parameters: BTreeMap<String, Var>,
    state: AdamState,
    /// bf16 copies of the parameters, written with them.
    rounded: Option<Rounded>,
}

impl AdamW {
    /// Moments at zero.
    ///
    /// # Errors
    /// When memory or the device fails.
    pub fn new(parameters: &BTreeMap<String, Var>, config: AdamConfig) -> Result<AdamW> {
        let zeros = |var: &Var| Ok::<_, ModelError>(Moments { first: var.zeros_like()?, second: var.zeros_like()? });
        let moments = parameters.iter().map(|(name, var)| Ok((name.clone(), zeros(var)?))).collect::<Result<_>>()?;
        Ok(AdamW { config, parameters: parameters.clone(), state: AdamState { step: 0, moments }, rounded: None })
    }

    /// The same, keeping a model's bf16 copies in step with its parameters, so that no pass rounds them again. `rounded`: those
    /// of the model whose parameters these are.
    #[must_use]
    pub fn keeping(self, rounded: &Rounded) -> AdamW {
        rounded.keep();
        AdamW { rounded: Some(rounded.clone()), ..self }
    }

    /// One step: θ ← θ(1 − lr·wd); m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; θ ← θ − lr·m̂/(√v̂ + ε).
    ///
    /// A parameter without a gradient keeps its weights and moments.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        self.step_scaled(gradients, 1.0, learning_rate)
    }

    /// [`Self::step`] with every gradient times `factor` ([`clip_factor`](super::clip_factor)): clipping without a pass of its
    /// own over memory, to the same bits.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step_scaled(&mut self, gradients: &Gradients, factor: f64, learning_rate: f64) -> Result<()> {
        self.step_grouped(gradients, factor, |_| learning_rate)
    }

    /// [`Self::step_scaled`] with a rate for each parameter, by name: one step of all of them, not of a group after the other.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step_grouped(&mut self, gradients: &Gradients, factor: f64, rate_of: impl Fn(&str) -> f64) -> Result<()> {
        self.state.step += 1;
        let mut copies = self.rounded.as_ref().map(Rounded::write);
        for (name, var) in &self.parameters {
            let (Some(gradient), Some(moments)) = (gradients.get(name), self.state.moments.get_mut(name)) else {
                continue;
            };
            let rule = Rule::new(self.config, self.state.step, rate_of(name));
            match gradient {
                Gradient::Host(gradient) => {
                    let copy = copies.as_mut().and_then(|copies| copies.numbers_mut(name));
                    rule.fused(var, (gradient, factor as f32), moments, copy)?;
                }
                Gradient::Device(gradient) => rule.on_device(var, (gradient, factor), moments)?,
            }
        }
        Ok(())
    }

    /// Goes on with other constants, its moments as they are.
    pub fn set_config(&mut self, config: AdamConfig) {
        self.config = config;
    }

    /// What to save: tensors that share memory with the optimiser, which changes them in place; [`AdamState::copy`] what must stay.
    #[must_use]
    pub fn state(&self) -> &AdamState {
        &self.state
    }

    /// Continues from a saved state.
    ///
    /// # Errors
    /// When the state is of other parameters.
    pub fn restore(&mut self, state: AdamState) -> Result<()> {
        for (name, var) in &self.parameters {
            let fits = |t: &Tensor| t.dims() == var.dims() && t.dtype() == DType::F32;
            match state.moments.get(name) {
                Some(m) if fits(&m.first) && fits(&m.second) => {}
                Some(_) => {
                    return Err(ModelError::OptimizerState(format!("moments of {name} have another shape")));
                }
                None => return Err(ModelError::OptimizerState(format!("no moments of {name}"))),
            }
        }
        let place = |t: &Tensor, var: &Var| Ok::<_, ModelError>(t.to_device(var.device())?);
        let mut moments = BTreeMap::new();
        for (name, var) in &self.parameters {
            let saved = &state.moments[name];
            let placed = Moments { first: place(&saved.first, var)?, second: place(&saved.second, var)? };
            moments.insert(name.clone(), placed);
        }
        self.state = AdamState { step: state.step, moments };
        Ok(())
    }
}
