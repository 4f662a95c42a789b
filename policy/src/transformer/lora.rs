//! Low-rank adapters (LoRA, arXiv 2106.09685): a layer computes x·Wᵀ + s·(x·Aᵀ)·Bᵀ with its W frozen, s = alpha / rank.
//!
//! Every linear layer of every block has one; embedding, unembedding and norms have none. A starts as N(0, 1/(3·in)) (the
//! variance of PEFT's uniform start), B as zeros, so a new adapter changes nothing. Files are llama.cpp's adapter GGUF,
//! `W.lora_a` `[rank, in]` and `W.lora_b` `[out, rank]`, with the base's vocabulary beside them: it says what they belong to.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var, quantized::gguf_file::Value};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::weights::{normal, variable};
use crate::{
    architecture::{
        Shape,
        llama::{self, FILE_TYPE_F32},
    },
    checkpoint::{Checkpoint, Metadata},
    model_error::{ModelError, Result},
};

/// Suffixes of the two factors' names.
const SUFFIXES: [&str; 2] = [".lora_a", ".lora_b"];
/// GGUF keys.
const KIND: &str = "general.type";
const ALPHA: &str = "adapter.lora.alpha";

/// The numbers that shape an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraShape {
    /// Rank of every update.
    pub rank: usize,
    /// Updates are multiplied by alpha / rank.
    pub alpha: f32,
}

impl LoraShape {
    /// s.
    #[must_use]
    pub fn scale(self) -> f32 {
        self.alpha / self.rank as f32
    }
}

/// Trainable factors for every linear layer of a trunk.
#[derive(Clone)]
pub struct Adapter {
    shape: LoraShape,
    parameters: BTreeMap<String, Var>,
}

/// Names of A and B of a layer's weight.
pub(crate) fn factors_of(weight: &str) -> [String; 2] {
    SUFFIXES.map(|suffix| format!("{weight}{suffix}"))
}

/// Whether a file holds an adapter and not a model.
#[must_use]
pub fn is_adapter(metadata: &Metadata) -> bool {
    matches!(metadata.get(KIND), Some(Value::String(kind)) if kind == "adapter")
}

/// Name, rows and columns of every weight that gets an adapter.
fn layers(shape: &Shape) -> impl Iterator<Item = (String, usize, usize)> {
    let all = llama::parameters(shape).into_iter();
    all.filter(|p| p.dims.len() == 2 && p.name.starts_with("blk.")).map(|p| (p.name, p.dims[0], p.dims[1]))
}

impl Adapter {
    /// An adapter that changes nothing yet; the same seed gives the same A on every machine.
    ///
    /// # Errors
    /// When the rank is 0 or memory fails.
    pub fn new(shape: &Shape, lora: LoraShape, seed: u64, device: &Device) -> Result<Adapter> {
        if lora.rank == 0 {
            return Err(ModelError::Unsupported("an adapter of rank 0".to_owned()));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut parameters = BTreeMap::new();
        for (name, n_out, n_in) in layers(shape) {
            let [a, b] = factors_of(&name);
            let start = normal(&mut rng, 1.0 / (3.0 * n_in as f32).sqrt(), lora.rank * n_in);
            parameters.insert(a, Var::from_vec(start, (lora.rank, n_in), device)?);
            parameters.insert(b, Var::zeros((n_out, lora.rank), DType::F32, device)?);
        }
        Ok(Adapter { shape: lora, parameters })
    }

    /// From an adapter's file, which must hold both factors of every layer, all of one rank, and nothing else of a layer.
    ///
    /// # Errors
    /// When it is no adapter, or of another model.
    pub fn from_checkpoint(checkpoint: &Checkpoint, shape: &Shape, device: &Device) -> Result<Adapter> {
        if !is_adapter(&checkpoint.metadata) {
            return Err(ModelError::Unsupported("a whole model where an adapter is expected".to_owned()));
        }
        let (mut parameters, mut rank) = (BTreeMap::new(), 0);
        for (name, n_out, n_in) in layers(shape) {
            let [a, b] = factors_of(&name);
            if rank == 0 {
                rank = checkpoint.tensor(&a)?.dim(0)?;
            }
            parameters.insert(a.clone(), variable(checkpoint, &a, &[rank, n_in], device)?);
            parameters.insert(b.clone(), variable(checkpoint, &b, &[n_out, rank], device)?);
        }
        let is_factor = |name: &str| SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
        if let Some(stranger) = checkpoint.tensors.keys().find(|n| is_factor(n) && !parameters.contains_key(*n)) {
            return Err(ModelError::Unsupported(format!("tensor {stranger}")));
        }
        let alpha = checkpoint.metadata.f64(ALPHA)? as f32;
        Ok(Adapter { shape: LoraShape { rank, alpha }, parameters })
    }

    /// Numbers of an adapter of this rank.
    #[must_use]
    pub fn n_parameters(shape: &Shape, rank: usize) -> usize {
        layers(shape).map(|(_, n_out, n_in)| rank * (n_out + n_in)).sum()
    }

    /// Rank and alpha.
    #[must_use]
    pub fn shape(&self) -> LoraShape {
        self.shape
    }

    /// The trainable tensors by GGUF name.
    #[must_use]
    pub fn parameters(&self) -> &BTreeMap<String, Var> {
        &self.parameters
    }

    /// As llama.cpp reads adapters, f32. `base`: the model that it belongs to, whose metadata come along.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_checkpoint(&self, base: &Metadata) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint { metadata: base.clone(), ..Checkpoint::default() };
        let text = |word: &str| Value::String(word.to_owned());
        checkpoint.metadata.set(KIND, text("adapter"));
        checkpoint.metadata.set("adapter.type", text("lora"));
        checkpoint.metadata.set(ALPHA, Value::F32(self.shape.alpha));
        checkpoint.metadata.set("general.file_type", Value::U32(FILE_TYPE_F32));
        for (name, var) in &self.parameters {
            let tensor = var.as_detached_tensor().to_device(&Device::Cpu)?;
            // A copy: the variable's storage changes in place when training goes on.
            checkpoint.tensors.insert(name.clone(), tensor.copy()?);
        }
        Ok(checkpoint)
    }
}

/// The whole model that a base and an adapter are together: W + s·B·A, with the base's metadata and file types.
///
/// # Errors
/// When they do not fit each other.
pub fn merged(base: &Checkpoint, adapter: &Checkpoint) -> Result<Checkpoint> {
    let shape = super::weights::shape_of(base)?;
    let adapter = Adapter::from_checkpoint(adapter, &shape, &Device::Cpu)?;
    let mut whole = base.clone();
    for (name, ..) in layers(&shape) {
        let [a, b] = factors_of(&name).map(|name| adapter.parameters[&name].as_detached_tensor());
        let change: Tensor = (b.matmul(&a)? * f64::from(adapter.shape.scale()))?;
        let weight = (base.tensor(&name)? + change)?;
        whole.tensors.insert(name, weight);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests;
