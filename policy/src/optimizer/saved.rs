//! What a run is between two of its steps, as a stream of tensors: the weights that learn and Adam's state.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use candle_core::{Tensor, Var};

use super::{AdamState, Moments};
use crate::{
    checkpoint::stream::{read_tensor, read_word, write_tensor, write_word},
    model_error::{ModelError, Result},
};

/// Writes weights, first moments and second moments, each by name; `io_error` says which file it was.
///
/// # Errors
/// When `out` refuses or the device fails.
pub fn write_run(
    out: &mut impl Write,
    parameters: &BTreeMap<String, Var>,
    adam: &AdamState,
    io_error: &dyn Fn(io::Error) -> ModelError,
) -> Result<()> {
    write_word(out, usize::try_from(adam.step).expect("steps are counted by a usize")).map_err(io_error)?;
    let mut show = |group: &str, name: &str, tensor: &Tensor| {
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        write_tensor(out, &format!("{group}/{name}"), tensor.dims(), &values).map_err(io_error)
    };
    for (name, var) in parameters {
        show("w", name, &var.as_detached_tensor())?;
    }
    for (name, of) in &adam.moments {
        show("m", name, &of.first)?;
    }
    for (name, of) in &adam.moments {
        show("v", name, &of.second)?;
    }
    Ok(())
}

/// Puts the weights back, bit for bit, and returns Adam's state. Rounded copies of the weights are the caller's to forget.
///
/// # Errors
/// When it ends early or is of other parameters; the weights may then be half restored.
pub fn read_run(
    reader: &mut impl Read,
    parameters: &BTreeMap<String, Var>,
    io_error: &dyn Fn(io::Error) -> ModelError,
) -> Result<AdamState> {
    let step = read_word(reader).map_err(io_error)? as u64;
    let mut next =
        |group: &str, name: &str, like: &Tensor| read_tensor(reader, &format!("{group}/{name}"), like, io_error);
    for (name, var) in parameters {
        var.set(&next("w", name, var)?)?;
    }
    let mut all =
        |group: &str| -> Result<Vec<Tensor>> { parameters.iter().map(|(name, var)| next(group, name, var)).collect() };
    let (first, second) = (all("m")?, all("v")?);
    let moments = first.into_iter().zip(second).map(|(first, second)| Moments { first, second });
    Ok(AdamState { step, moments: parameters.keys().cloned().zip(moments).collect() })
}
