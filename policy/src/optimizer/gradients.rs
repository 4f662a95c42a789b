//! Gradients summed over micro-batches.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var, backprop::GradStore};
use rayon::prelude::*;

use crate::{
    kernels::{Operations, Precision, values},
    model_error::Result,
};

/// One gradient per parameter, by name. A parameter that no loss has reached has none.
///
/// On the processor each is a flat buffer that backward passes add into; on other devices a tensor from candle's tape.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    sums: BTreeMap<String, Gradient>,
    /// Buffers of an earlier sum, with whatever it left in them.
    spare: BTreeMap<String, Vec<f32>>,
}

/// The gradient of one parameter.
#[derive(Clone, Debug)]
pub enum Gradient {
    /// Row-major, f32, in memory.
    Host(Vec<f32>),
    /// On a device.
    Device(Tensor),
}

/// Numbers that one task works on.
const CHUNK: usize = 1 << 16;

impl Gradients {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Gradients {
        Gradients::default()
    }

    /// The buffer of one parameter of `n` numbers, to add into; zeros when nothing was added yet.
    ///
    /// # Panics
    /// When the parameter has another size or its gradient lies on a device: only a bug can do that.
    pub(crate) fn slot(&mut self, name: &str, n: usize) -> &mut [f32] {
        let (sum, adds) = self.slot_to_fill(name, n);
        if !adds {
            sum.par_chunks_mut(CHUNK).for_each(|chunk| chunk.fill(0.0));
        }
        sum
    }

    /// The same for who can also write what it would add: the buffer, and whether there is something in it to add to. When
    /// there is not, every number must be written. It saves a large model a third of its gradients' traffic.
    ///
    /// # Panics
    /// As [`Self::slot`].
    pub(crate) fn slot_to_fill(&mut self, name: &str, n: usize) -> (&mut [f32], bool) {
        let adds = self.sums.contains_key(name);
        if !adds {
            // Of another model the parameter may have another size.
            let room = self.spare.remove(name).filter(|room| room.len() == n).unwrap_or_else(|| vec![0.0; n]);
            self.sums.insert(name.to_owned(), Gradient::Host(room));
        }
        match self.sums.get_mut(name) {
            Some(Gradient::Host(sum)) if sum.len() == n => (sum, adds),
            _ => panic!("the gradient of {name} is another parameter's"),
        }
    }

    /// Adds what a backward pass on candle's tape left for these parameters.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn add(&mut self, parameters: &BTreeMap<String, Var>, store: &GradStore) -> Result<()> {
        for (name, var) in parameters {
            let Some(gradient) = store.get(var.as_tensor()) else { continue };
            if gradient.device().is_cpu() {
                let gradient = gradient.contiguous()?;
                let open = values(&gradient);
                add_to(self.slot(name, var.elem_count()), open.slice()?);
            } else {
                self.add_tensor(name, gradient)?;
            }
        }
        Ok(())
    }

    /// Adds another sum to this one.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn merge(&mut self, other: &Gradients) -> Result<()> {
        for (name, gradient) in &other.sums {
            match gradient {
                Gradient::Host(values) => add_to(self.slot(name, values.len()), values),
                Gradient::Device(tensor) => self.add_tensor(name, tensor)?,
            }
        }
        Ok(())
    }

    pub(super) fn add_tensor(&mut self, name: &str, gradient: &Tensor) -> Result<()> {
        let sum = match self.sums.get(name) {
            Some(Gradient::Device(before)) => (before + gradient)?,
            _ => gradient.contiguous()?,
        };
        self.sums.insert(name.to_owned(), Gradient::Device(sum.detach()));
        Ok(())
    }

    /// The gradient of one parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Gradient> {
        self.sums.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Gradient)> {
        self.sums.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// sqrt(Σ g²) over every parameter, summed in f64 over blocks of a fixed size.
    ///
    /// # Errors
    /// When the device fails.
    pub fn global_norm(&self) -> Result<f64> {
        let (mut squares, mut on_device) = (0.0, Vec::new());
        for gradient in self.sums.values() {
            match gradient {
                Gradient::Host(values) => squares += sum_of_squares(values),
                Gradient::Device(tensor) => on_device.push(tensor),
            }
        }
        if let Some(first) = on_device.first() {
            squares += Operations::of(first.device(), Precision::F32)?.sum_of_squares(&on_device)?;
        }
        Ok(squares.sqrt())
    }

    /// Multiplies every gradient.
    ///
    /// # Errors
    /// When the device fails.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for gradient in self.sums.values_mut() {
            match gradient {
                Gradient::Host(values) => values.par_chunks_mut(CHUNK).for_each(|chunk| {
                    chunk.iter_mut().for_each(|g| *g *= factor as f32);
                }),
                Gradient::Device(tensor) => *tensor = (&*tensor * factor)?,
            }
        }
        Ok(())
    }

    /// Clips to a global norm ([`clip_factor`]) and returns the norm before.
    ///
    /// # Errors
    /// When the device fails.
    pub fn clip(&mut self, max_norm: f64) -> Result<f64> {
        let norm = self.global_norm()?;
        let factor = clip_factor(norm, max_norm);
        if factor != 1.0 {
            self.scale(factor)?;
        }
        Ok(norm)
    }

    /// Nothing again, with the memory kept for the next sum.
    pub fn reset(&mut self) {
        for (name, gradient) in std::mem::take(&mut self.sums) {
            if let Gradient::Host(room) = gradient {
                self.spare.insert(name, room);
            }
        }
    }
}

/// By what gradients of this norm are multiplied, as PyTorch clips: max / (norm + 1e-6) when norm > max, else 1.
#[must_use]
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if norm > max_norm { max_norm / (norm + 1e-6) } else { 1.0 }
}

impl Gradient {
    /// A copy of the numbers, row-major.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Gradient::Host(values) => Ok(values.clone()),
            Gradient::Device(tensor) => Ok(tensor.flatten_all()?.to_vec1()?),
        }
    }
}

fn add_to(sum: &mut [f32], values: &[f32]) {
    assert_eq!(sum.len(), values.len(), "gradients of one parameter have one size");
    sum.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(sum, values)| {
        sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
    });
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let blocks: Vec<f64> = values
        .par_chunks(CHUNK)
        .map(|block| {
            // f32 within short runs, whose rounding is far below that of the gradient, f64 across them.
            let run = |run: &[f32]| {
                let mut partial = [0.0f32; 16];
                run.chunks(16).for_each(|x| partial.iter_mut().zip(x).for_each(|(p, &x)| *p = x.mul_add(x, *p)));
                f64::from(partial.iter().sum::<f32>())
            };
            block.chunks(1024).map(run).sum::<f64>()
        })
        .collect();
    blocks.into_iter().sum()
}

/// Runs `one` on every micro-batch, which adds its gradient and says what to report, in the order of `micro_batches`.
///
/// With `lanes` > 1, micro-batches of a wave run at once, each into gradients of its own, which are then added in order:
/// small models gain nothing from splitting a matrix product, but everything from running two of them. A large model's
/// micro-batches (`lanes` = 1) add into the same buffers one after another, each on the whole pool. Either way the sum does
/// not depend on timing, nor on the number of threads (see [`lanes_of`](crate::threads::lanes_of)).
///
/// # Errors
/// The first error of any micro-batch.
pub fn accumulate<T: Sync, R: Send>(
    gradients: &mut Gradients,
    micro_batches: &[T],
    lanes: usize,
    one: impl Fn(&T, &mut Gradients) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if lanes <= 1 {
        return micro_batches.iter().map(|micro_batch| one(micro_batch, gradients)).collect();
    }
    let mut reports = Vec::with_capacity(micro_batches.len());
    for wave in micro_batches.chunks(lanes) {
        let own = |micro_batch: &T| {
            let mut gradients = Gradients::new();
            one(micro_batch, &mut gradients).map(|report| (gradients, report))
        };
        let results: Vec<Result<(Gradients, R)>> = wave.par_iter().map(own).collect();
        for result in results {
            let (own, report) = result?;
            gradients.merge(&own)?;
            reports.push(report);
        }
    }
    Ok(reports)
}
