//! AdamW (arXiv 1412.6980 and 1711.05101) in PyTorch's form.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;

use super::Gradients;
use crate::{
    kernels::values,
    model_error::{ModelError, Result},
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
        AdamConfig {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-5,
            weight_decay: 0.0,
        }
    }
}

/// First and second moment of one parameter.
#[derive(Clone, Debug)]
pub struct Moments {
    /// m, the mean of gradients.
    pub first: Tensor,
    /// v, the mean of squared gradients.
    pub second: Tensor,
}

/// Everything a resumed run needs: steps taken and moments by parameter name.
#[derive(Clone, Debug, Default)]
pub struct AdamState {
    /// Steps taken.
    pub step: u64,
    /// Moments by name.
    pub moments: BTreeMap<String, Moments>,
}

/// The optimiser of one set of parameters.
pub struct AdamW {
    config: AdamConfig,
    parameters: BTreeMap<String, Var>,
    state: AdamState,
}

impl AdamW {
    /// Moments at zero.
    ///
    /// # Errors
    /// When memory or the device fails.
    pub fn new(parameters: &BTreeMap<String, Var>, config: AdamConfig) -> Result<AdamW> {
        let zeros = |var: &Var| {
            Ok::<_, ModelError>(Moments {
                first: var.zeros_like()?,
                second: var.zeros_like()?,
            })
        };
        let moments = parameters
            .iter()
            .map(|(name, var)| Ok((name.clone(), zeros(var)?)))
            .collect::<Result<_>>()?;
        Ok(AdamW {
            config,
            parameters: parameters.clone(),
            state: AdamState { step: 0, moments },
        })
    }

    /// One step: θ ← θ(1 − lr·wd); m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; θ ← θ − lr·m̂/(√v̂ + ε).
    ///
    /// A parameter without a gradient keeps its weights and moments.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        self.state.step += 1;
        let rule = Rule::new(self.config, self.state.step, learning_rate);
        for (name, var) in &self.parameters {
            let (Some(gradient), Some(moments)) =
                (gradients.get(name), self.state.moments.get_mut(name))
            else {
                continue;
            };
            let theta = var.as_detached_tensor();
            let (theta, first, second) = if theta.device().is_cpu() && theta.dtype() == DType::F32 {
                rule.fused(&theta, gradient, moments)?
            } else {
                rule.plain(&theta, gradient, moments)?
            };
            var.set(&theta)?;
            *moments = Moments { first, second };
        }
        Ok(())
    }

    /// What to save.
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
                    return Err(ModelError::OptimizerState(format!(
                        "moments of {name} have another shape"
                    )));
                }
                None => return Err(ModelError::OptimizerState(format!("no moments of {name}"))),
            }
        }
        let place = |t: &Tensor, var: &Var| Ok::<_, ModelError>(t.to_device(var.device())?);
        let mut moments = BTreeMap::new();
        for (name, var) in &self.parameters {
            let saved = &state.moments[name];
            let placed = Moments {
                first: place(&saved.first, var)?,
                second: place(&saved.second, var)?,
            };
            moments.insert(name.clone(), placed);
        }
        self.state = AdamState {
            step: state.step,
            moments,
        };
        Ok(())
    }
}

/// One step's numbers.
#[derive(Clone, Copy)]
struct Rule {
    config: AdamConfig,
    /// 1 − β₁ᵗ.
    correction1: f64,
    /// 1 − β₂ᵗ.
    correction2: f64,
    learning_rate: f64,
}

impl Rule {
    fn new(config: AdamConfig, step: u64, learning_rate: f64) -> Rule {
        let t = step as f64;
        let (correction1, correction2) = (1.0 - config.beta1.powf(t), 1.0 - config.beta2.powf(t));
        Rule {
            config,
            correction1,
            correction2,
            learning_rate,
        }
    }

    /// In candle's operations, on any device: the oracle of [`Rule::fused`].
    fn plain(
        &self,
        theta: &Tensor,
        g: &Tensor,
        moments: &Moments,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let AdamConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.config;
        let first = ((&moments.first * beta1)? + (g * (1.0 - beta1))?)?;
        let second = ((&moments.second * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
        let denominator = ((&second / self.correction2)?.sqrt()? + eps)?;
        let change = ((&first / self.correction1)? / denominator)?;
        let kept = (theta * (1.0 - self.learning_rate * weight_decay))?;
        Ok(((kept - (change * self.learning_rate)?)?, first, second))
    }

    /// In one pass over memory instead of twenty.
    fn fused(
        &self,
        theta: &Tensor,
        g: &Tensor,
        moments: &Moments,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let g = g.contiguous()?;
        let open = [theta, &g, &moments.first, &moments.second].map(values);
        let (theta_old, g, m_old, v_old) = (
            open[0].slice()?,
            open[1].slice()?,
            open[2].slice()?,
            open[3].slice()?,
        );
        let AdamConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.config;
        let (b1, b2, eps) = (beta1 as f32, beta2 as f32, eps as f32);
        let (c1, c2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let (scale1, scale2) = (
            (1.0 / self.correction1) as f32,
            (1.0 / self.correction2) as f32,
        );
        let (rate, keep) = (
            self.learning_rate as f32,
            (1.0 - self.learning_rate * weight_decay) as f32,
        );
        let n = theta_old.len();
        let (mut theta_new, mut m_new, mut v_new) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        let new = (
            theta_new.par_chunks_mut(CHUNK),
            m_new.par_chunks_mut(CHUNK),
            v_new.par_chunks_mut(CHUNK),
        );
        let old = (
            theta_old.par_chunks(CHUNK),
            g.par_chunks(CHUNK),
            m_old.par_chunks(CHUNK),
            v_old.par_chunks(CHUNK),
        );
        new.into_par_iter().zip(old.into_par_iter()).for_each(
            |((theta, m, v), (theta_old, g, m_old, v_old))| {
                for i in 0..theta.len() {
                    m[i] = b1 * m_old[i] + c1 * g[i];
                    v[i] = b2 * v_old[i] + c2 * g[i] * g[i];
                    theta[i] = theta_old[i] * keep
                        - rate * (m[i] * scale1) / ((v[i] * scale2).sqrt() + eps);
                }
            },
        );
        let tensor = |values| Tensor::from_vec(values, theta.shape(), theta.device());
        Ok((tensor(theta_new)?, tensor(m_new)?, tensor(v_new)?))
    }
}

/// Numbers that one task updates.
const CHUNK: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_fused_step_equals_the_plain_one() {
        let numbers = |offset: f32| {
            let values: Vec<f32> = (0..5000)
                .map(|i| (i as f32 * 0.37 + offset).sin())
                .collect();
            Tensor::from_vec(values, (50, 100), &Device::Cpu).unwrap()
        };
        let moments = Moments {
            first: numbers(1.0),
            second: numbers(2.0).sqr().unwrap(),
        };
        let rule = Rule::new(
            AdamConfig {
                weight_decay: 0.1,
                ..AdamConfig::default()
            },
            7,
            0.01,
        );
        let fused = rule.fused(&numbers(3.0), &numbers(4.0), &moments).unwrap();
        let plain = rule.plain(&numbers(3.0), &numbers(4.0), &moments).unwrap();
        for (a, b) in [(fused.0, plain.0), (fused.1, plain.1), (fused.2, plain.2)] {
            let difference = (a - b)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
            assert!(difference < 1e-6, "{difference}");
        }
    }
}
