//! Trainable weights: loading them by name, checking their shapes, drawing them at random.

use std::{
    collections::{BTreeMap, BTreeSet},
    f32::consts::TAU,
};

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Pass;
use crate::{
    architecture::{
        Shape,
        llama::{self, Init},
    },
    checkpoint::Checkpoint,
    model_error::{ModelError, Result},
};

/// One parameter, and a view of the same storage that records no graph.
#[derive(Clone, Debug)]
pub struct Weight {
    var: Var,
    frozen: Tensor,
}

impl Weight {
    /// Looks a parameter up.
    ///
    /// # Errors
    /// When it is absent.
    pub fn named(parameters: &BTreeMap<String, Var>, name: &str) -> Result<Weight> {
        let var = parameters.get(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        Ok(Weight { frozen: var.as_detached_tensor(), var: var.clone() })
    }

    /// The tensor for this kind of pass.
    #[must_use]
    pub fn get(&self, pass: Pass) -> &Tensor {
        match pass {
            Pass::Train => self.var.as_tensor(),
            Pass::Frozen => &self.frozen,
        }
    }
}

/// The shape of a checkpoint: its metadata, with the vocabulary size and tying read from the tensors themselves.
pub(crate) fn shape_of(checkpoint: &Checkpoint) -> Result<Shape> {
    // The architecture first, so that a model of another family gets that answer and not a missing tensor.
    Shape::from_metadata(&checkpoint.metadata, 0, true)?;
    let vocab_size = checkpoint.tensor(llama::TOKEN_EMBEDDING)?.dim(0)?;
    Shape::from_metadata(&checkpoint.metadata, vocab_size, !checkpoint.tensors.contains_key(llama::OUTPUT))
}

/// Every parameter of the trunk and, when it is not tied, the unembedding.
pub(crate) fn load(checkpoint: &Checkpoint, shape: &Shape, device: &Device) -> Result<BTreeMap<String, Var>> {
    let expected = llama::parameters(shape);
    refuse_strangers(checkpoint, &expected)?;
    expected
        .into_iter()
        .filter(|p| p.name != llama::OUTPUT)
        .map(|p| {
            let var = variable(checkpoint, &p.name, &p.dims, device)?;
            Ok((p.name, var))
        })
        .collect()
}

/// One tensor of a checkpoint as a variable of its own (training it never touches the checkpoint).
pub(crate) fn variable(checkpoint: &Checkpoint, name: &str, dims: &[usize], device: &Device) -> Result<Var> {
    let tensor = checkpoint.tensor(name)?;
    if tensor.dims() != dims {
        return Err(ModelError::TensorShape {
            name: name.to_owned(),
            expected: dims.to_vec(),
            got: tensor.dims().to_vec(),
        });
    }
    Ok(Var::from_tensor(&tensor.to_device(device)?.copy()?)?)
}

/// A tensor that the trunk does not know (a bias, a second norm) would change what llama.cpp computes but not what we do.
fn refuse_strangers(checkpoint: &Checkpoint, expected: &[llama::Parameter]) -> Result<()> {
    let known: BTreeSet<&str> = expected.iter().map(|p| p.name.as_str()).collect();
    let stranger = checkpoint.tensors.keys().find(|name| {
        !known.contains(name.as_str()) && name.as_str() != llama::ROPE_FREQS && !name.starts_with("reward_head.")
    });
    match stranger {
        Some(name) => Err(ModelError::Unsupported(format!("tensor {name}"))),
        None => Ok(()),
    }
}

/// A model from nothing: random weights of this shape with the metadata that llama.cpp needs, but no vocabulary.
///
/// # Errors
/// When memory fails.
pub fn random_checkpoint(shape: &Shape, seed: u64) -> Result<Checkpoint> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut checkpoint = Checkpoint { metadata: llama::metadata(shape), ..Checkpoint::default() };
    for parameter in llama::parameters(shape) {
        let n = parameter.dims.iter().product();
        let values = match parameter.init {
            Init::Ones => vec![1.0; n],
            Init::Normal(std) => normal(&mut rng, std, n),
        };
        checkpoint.tensors.insert(parameter.name, Tensor::from_vec(values, parameter.dims, &Device::Cpu)?);
    }
    Ok(checkpoint)
}

/// `n` draws from N(0, std) by the Box-Muller transform.
pub(crate) fn normal(rng: &mut ChaCha8Rng, std: f32, n: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(n + 1);
    while out.len() < n {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
        let angle = TAU * rng.random::<f32>();
        out.push(std * radius * angle.cos());
        out.push(std * radius * angle.sin());
    }
    out.truncate(n);
    out
}
