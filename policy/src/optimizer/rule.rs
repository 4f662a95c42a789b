//! Adam's arithmetic on one tensor: in candle's operations for any device, and fused into one pass for the CPU and for CUDA.

use candle_core::{Tensor, Var};
use half::bf16;
use rayon::prelude::*;

use super::{AdamConfig, Moments};
#[cfg(any(test, feature = "cuda-trainer"))]
use crate::kernels::cuda::{AdamNumbers, Machine, adam_w};
use crate::{
    kernels::{change, matrix::Number},
    model_error::Result,
};

/// One step's numbers.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    config: AdamConfig,
    /// 1 − β₁ᵗ.
    correction1: f64,
    /// 1 − β₂ᵗ.
    correction2: f64,
    learning_rate: f64,
}

impl Rule {
    pub(super) fn new(config: AdamConfig, step: u64, learning_rate: f64) -> Rule {
        let t = step as f64;
        let (correction1, correction2) = (1.0 - config.beta1.powf(t), 1.0 - config.beta2.powf(t));
        Rule { config, correction1, correction2, learning_rate }
    }

    /// In candle's operations, on any device: the oracle of `fused`.
    pub(super) fn plain(&self, theta: &Tensor, g: &Tensor, moments: &Moments) -> Result<(Tensor, Tensor, Tensor)> {
        let AdamConfig { beta1, beta2, eps, weight_decay } = self.config;
        let first = ((&moments.first * beta1)? + (g * (1.0 - beta1))?)?;
        let second = ((&moments.second * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
        let denominator = ((&second / self.correction2)?.sqrt()? + eps)?;
        let change = ((&first / self.correction1)? / denominator)?;
        let kept = (theta * (1.0 - self.learning_rate * weight_decay))?;
        Ok(((kept - (change * self.learning_rate)?)?, first, second))
    }

    /// With the gradient `g.0` times `g.1` on another device than the processor: by our kernel where there is one.
    pub(super) fn on_device(&self, var: &Var, (g, factor): (&Tensor, f64), moments: &mut Moments) -> Result<()> {
        #[cfg(any(test, feature = "cuda-trainer"))]
        if let Some(machine) = Machine::of(var.device())? {
            return self.on_machine(machine, var, (g, factor as f32), moments);
        }
        let (theta, first, second) = self.plain(&var.as_detached_tensor(), &(g * factor)?, moments)?;
        var.set(&theta)?;
        *moments = Moments { first, second };
        Ok(())
    }

    /// In one pass over the machine's memory, in place.
    #[cfg(any(test, feature = "cuda-trainer"))]
    pub(super) fn on_machine(
        &self,
        machine: Machine,
        theta: &Tensor,
        (g, factor): (&Tensor, f32),
        moments: &Moments,
    ) -> Result<()> {
        let AdamConfig { beta1, beta2, eps, weight_decay } = self.config;
        let numbers = AdamNumbers {
            factor,
            betas: [beta1, beta2].map(|beta| beta as f32),
            rests: [beta1, beta2].map(|beta| (1.0 - beta) as f32),
            scales: [self.correction1, self.correction2].map(|correction| (1.0 / correction) as f32),
            rate: self.learning_rate as f32,
            keep: (1.0 - self.learning_rate * weight_decay) as f32,
            eps: eps as f32,
        };
        Ok(adam_w(machine, [theta, &moments.first, &moments.second], g, numbers)?)
    }

    /// In one pass over memory, in place, with the gradient `g.0` times `g.1`. `copy`: the parameter in bf16, written too.
    pub(super) fn fused(
        &self,
        theta: &Tensor,
        (g, factor): (&[f32], f32),
        moments: &Moments,
        copy: Option<&mut [bf16]>,
    ) -> Result<()> {
        let work = |theta: &mut [f32], m: &mut [f32], v: &mut [f32]| {
            let state = theta.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
            let state = state.zip(g.par_chunks(CHUNK));
            let Some(copy) = copy else {
                return state.for_each(|(((theta, m), v), g)| self.chunk(theta, (m, v), g, factor));
            };
            state.zip(copy.par_chunks_mut(CHUNK)).for_each(|((((theta, m), v), g), copy)| {
                self.chunk(theta, (m, v), g, factor);
                copy.iter_mut().zip(theta).for_each(|(copy, theta)| *copy = bf16::near(*theta));
            });
        };
        change(theta, |theta| change(&moments.first, |m| change(&moments.second, |v| work(theta, m, v))))???;
        Ok(())
    }

    fn chunk(&self, theta: &mut [f32], (m, v): (&mut [f32], &mut [f32]), g: &[f32], factor: f32) {
        let AdamConfig { beta1, beta2, eps, weight_decay } = self.config;
        let (b1, b2, eps) = (beta1 as f32, beta2 as f32, eps as f32);
        let (c1, c2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let (scale1, scale2) = ((1.0 / self.correction1) as f32, (1.0 / self.correction2) as f32);
        let (rate, keep) = (self.learning_rate as f32, (1.0 - self.learning_rate * weight_decay) as f32);
        // Iterators of one length, not indices: a bound that is checked keeps the loop from becoming vector code.
        for (((theta, m), v), g) in theta.iter_mut().zip(m).zip(v).zip(g) {
            let g = g * factor;
            *m = b1 * *m + c1 * g;
            *v = b2 * *v + c2 * g * g;
            *theta = *theta * keep - rate * (*m * scale1) / ((*v * scale2).sqrt() + eps);
        }
    }
}

/// Numbers that one task updates.
const CHUNK: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// One step on the CUDA kernel against the plain one, odd sizes, with the gradient times a factor.
    fn check_on_machine(machine: Machine) {
        let numbers = |offset: f32| {
            let values: Vec<f32> = (0..777).map(|i| (i as f32 * 0.37 + offset).sin()).collect();
            Tensor::from_vec(values, (21, 37), &machine.device()).unwrap()
        };
        let moments = Moments { first: numbers(1.0), second: numbers(2.0).sqr().unwrap() };
        let rule = Rule::new(AdamConfig { weight_decay: 0.1, ..AdamConfig::default() }, 7, 0.01);
        let (theta, g) = (numbers(3.0), numbers(4.0));
        let plain = rule.plain(&theta, &g, &moments).unwrap();
        rule.on_machine(machine, &theta, (&(g * 0.5).unwrap(), 2.0), &moments).unwrap();
        for (a, b) in [(theta, plain.0), (moments.first, plain.1), (moments.second, plain.2)] {
            let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(difference < 1e-6, "{difference}");
        }
    }

    #[test]
    fn the_step_of_the_cuda_kernel_equals_the_plain_one() {
        (0..3).for_each(|schedule| check_on_machine(Machine::emulated(schedule)));
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn on_gpu_the_step_of_the_cuda_kernel_equals_the_plain_one() {
        let device = crate::kernels::device("cuda:0").unwrap();
        check_on_machine(Machine::of(&device).unwrap().unwrap());
    }

    #[test]
    fn the_fused_step_equals_the_plain_one() {
        let numbers = |offset: f32| {
            let values: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.37 + offset).sin()).collect();
            Tensor::from_vec(values, (50, 100), &Device::Cpu).unwrap()
        };
        let moments = Moments { first: numbers(1.0), second: numbers(2.0).sqr().unwrap() };
        let rule = Rule::new(AdamConfig { weight_decay: 0.1, ..AdamConfig::default() }, 7, 0.01);
        let (theta, g) = (numbers(3.0), numbers(4.0));
        let plain = rule.plain(&theta, &g, &moments).unwrap();
        let half: Vec<f32> = (g * 0.5).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let mut copy = vec![bf16::ZERO; 5000];
        rule.fused(&theta, (&half, 2.0), &moments, Some(&mut copy)).unwrap();
        let learnt: Vec<f32> = theta.flatten_all().unwrap().to_vec1().unwrap();
        assert!(copy.iter().zip(&learnt).all(|(copy, theta)| *copy == bf16::from_f32(*theta)));
        for (a, b) in [(theta, plain.0), (moments.first, plain.1), (moments.second, plain.2)] {
            let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(difference < 1e-6, "{difference}");
        }
    }
}
