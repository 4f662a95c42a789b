//! The tensors of a state, always in one order: per model its weights, first moments, second moments and, where there is
//! one, the average of the weights, each by name.
//!
//! Written and read one at a time, so that however large the state, memory holds one tensor of it twice.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use candle_core::{Tensor, Var};
use policy::{
    checkpoint::stream::{read_tensor, read_word, write_tensor, write_word},
    model_error::ModelError,
    optimizer::{AdamState, AdamW, Moments},
    transformer::Adapter,
};

use crate::{averaging::WeightAverage, form::Form, models::Models};

/// One of the two models that learn, with its optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Policy,
    Value,
}

impl Half {
    pub(crate) const ALL: [Half; 2] = [Half::Policy, Half::Value];

    pub(super) fn word(self) -> &'static str {
        match self {
            Half::Policy => "policy",
            Half::Value => "value",
        }
    }

    pub(crate) fn parameters(self, models: &Models) -> &BTreeMap<String, Var> {
        match self {
            Half::Policy => models.policy.parameters(),
            Half::Value => models.value.parameters(),
        }
    }

    /// What its parameters are.
    pub(crate) fn form(self, models: &Models) -> Form {
        let trunk = match self {
            Half::Policy => models.policy.trunk(),
            Half::Value => models.value.trunk(),
        };
        trunk.adapter().map(Adapter::shape)
    }

    pub(crate) fn optimizer(self, models: &Models) -> &AdamW {
        match self {
            Half::Policy => &models.policy_optimizer,
            Half::Value => &models.value_optimizer,
        }
    }

    pub(crate) fn optimizer_mut(self, models: &mut Models) -> &mut AdamW {
        match self {
            Half::Policy => &mut models.policy_optimizer,
            Half::Value => &mut models.value_optimizer,
        }
    }

    /// Its weights were written by hand.
    pub(crate) fn forget_rounded(self, models: &Models) {
        match self {
            Half::Policy => models.policy.rounded().forget(),
            Half::Value => models.value.rounded().forget(),
        }
    }

    /// The moving average of its weights, which only the policy may have.
    fn average(self, models: &Models) -> Option<&WeightAverage> {
        match self {
            Half::Policy => models.average.as_ref(),
            Half::Value => None,
        }
    }

    /// Bytes of weights, moments and average.
    pub(crate) fn n_bytes(self, models: &Models) -> u64 {
        let n_numbers: usize = self.parameters(models).values().map(|var| var.elem_count()).sum();
        let n_copies = 3 + u64::from(self.average(models).is_some());
        n_copies * size_of::<f32>() as u64 * n_numbers as u64
    }
}

/// Shows every tensor of one half: its key, its shape, its numbers.
pub(super) fn each(
    models: &Models,
    half: Half,
    mut show: impl FnMut(&str, &[usize], &[f32]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut show = |group: &str, name: &str, tensor: &Tensor| {
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        show(&format!("{}{group}/{name}", half.word()), tensor.dims(), &values)
    };
    for (name, var) in half.parameters(models) {
        show("", name, &var.as_detached_tensor())?;
    }
    let moments = &half.optimizer(models).state().moments;
    for (name, of) in moments {
        show(".m", name, &of.first)?;
    }
    for (name, of) in moments {
        show(".v", name, &of.second)?;
    }
    for (name, tensor) in half.average(models).into_iter().flat_map(WeightAverage::tensors) {
        show(".average", name, tensor)?;
    }
    Ok(())
}

/// Writes one half; `io_error` says which file it was.
pub(crate) fn write_half(
    out: &mut impl Write,
    models: &Models,
    half: Half,
    io_error: &dyn Fn(io::Error) -> ModelError,
) -> Result<(), ModelError> {
    out.write_all(&half.optimizer(models).state().step.to_le_bytes()).map_err(io_error)?;
    write_word(out, usize::from(half.average(models).is_some())).map_err(io_error)?;
    each(models, half, |key, dims, values| write_tensor(out, key, dims, values).map_err(io_error))
}

/// Puts one half back, bit for bit.
///
/// # Errors
/// When it ends early or is of other models; this half may then be half restored.
pub(crate) fn read_half(
    reader: &mut impl Read,
    models: &mut Models,
    half: Half,
    io_error: &dyn Fn(io::Error) -> ModelError,
) -> Result<(), ModelError> {
    let mut step = [0; 8];
    reader.read_exact(&mut step).map_err(io_error)?;
    let has_average = read_word(reader).map_err(io_error)? == 1;
    half.forget_rounded(models);
    for (name, var) in half.parameters(models) {
        var.set(&read_tensor(reader, &format!("{}/{name}", half.word()), var, io_error)?)?;
    }
    let mut of_kind = |kind: &str| -> Result<Vec<Tensor>, ModelError> {
        let moments = &half.optimizer(models).state().moments;
        let one = |(name, like): (&String, &Moments)| {
            read_tensor(reader, &format!("{}.{kind}/{name}", half.word()), &like.first, io_error)
        };
        moments.iter().map(one).collect()
    };
    let (first, second) = (of_kind("m")?, of_kind("v")?);
    let names = half.optimizer(models).state().moments.keys().cloned();
    let moments = names.zip(first.into_iter().zip(second)).map(|(name, (first, second))| {
        let moments = Moments { first, second };
        (name, moments)
    });
    let state = AdamState { step: u64::from_le_bytes(step), moments: moments.collect() };
    half.optimizer_mut(models).restore(state)?;
    if half == Half::Policy {
        models.average = has_average.then(|| read_average(reader, models, io_error)).transpose()?;
    }
    Ok(())
}

fn read_average(
    reader: &mut impl Read,
    models: &Models,
    io_error: &dyn Fn(io::Error) -> ModelError,
) -> Result<WeightAverage, ModelError> {
    let mut tensors = BTreeMap::new();
    for (name, var) in Half::Policy.parameters(models) {
        tensors.insert(name.clone(), read_tensor(reader, &format!("policy.average/{name}"), var, io_error)?);
    }
    Ok(WeightAverage::from_tensors(tensors))
}
