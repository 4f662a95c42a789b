//! The decoder trunk, once, for policy, reference, reward model and value model.
//!
//! The trunk turns packed tokens into hidden states; what is read from them (log-probs, a scalar) is the caller's head.
//! Weights stay in the order of the GGUF file. On the processor a pass goes through [`kernels`](crate::kernels), each layer
//! with an explicit backward (`open`, `pass`); the same trunk on candle's tape (`tape`) is, from candle's plain operations,
//! the oracle that the tests hold it to, and with our CUDA kernels what runs on a GPU.

mod attention;
mod linear;
mod lora;
mod mlp;
mod norm;
mod open;
mod pass;
mod rope;
mod rounded;
mod tape;
mod weights;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use sha2::{Digest, Sha256};

pub use attention::AttentionShape;
pub(crate) use linear::Linear;
pub(crate) use lora::factors_of;
pub use lora::{Adapter, LoraShape, is_adapter, merged};
pub(crate) use open::Weights;
pub(crate) use pass::OpenTrunk;
pub use pass::{Activations, Keep};
pub(crate) use rope::Rope;
pub use rounded::Rounded;
pub use weights::{Weight, random_checkpoint};
pub(crate) use weights::{normal, variable as weights_of};

use crate::{
    architecture::{Shape, llama},
    checkpoint::Checkpoint,
    kernels::{Operations, Precision},
    model_error::Result,
    sequence_batch::Packed,
};

/// Whether a pass on candle's tape records what backward needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Gradients reach every parameter.
    Train,
    /// No graph: old, reference and value passes.
    Frozen,
}

/// Embedding, decoder blocks, last norm. Clones share their weights.
#[derive(Clone)]
pub struct Transformer {
    shape: Shape,
    weights: BTreeMap<String, Weight>,
    rope: Rope,
    parameters: BTreeMap<String, Var>,
    adapter: Option<Adapter>,
    device: Device,
}

impl Transformer {
    /// Takes the trunk's tensors from a checkpoint; heads in it are left alone.
    ///
    /// # Errors
    /// When the architecture cannot be trained, or a tensor is absent or has another shape than the metadata says.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Transformer> {
        let shape = weights::shape_of(checkpoint)?;
        let parameters = weights::load(checkpoint, &shape, device)?;
        let rope = Rope::new(&shape, checkpoint.tensors.get(llama::ROPE_FREQS))?;
        let weights = parameters.keys().map(|name| Ok((name.clone(), Weight::named(&parameters, name)?)));
        let (weights, adapter) = (weights.collect::<Result<_>>()?, None);
        Ok(Transformer { weights, shape, rope, parameters, adapter, device: device.clone() })
    }

    /// Random weights, as training from nothing starts; the same seed gives the same weights on every machine.
    ///
    /// # Errors
    /// When memory or the device fails.
    pub fn random(shape: &Shape, seed: u64, device: &Device) -> Result<Transformer> {
        Self::from_checkpoint(&random_checkpoint(shape, seed)?, device)
    }

    /// Hidden states after the last norm on candle's tape, `[n_tokens, hidden]`, f32, differentiable when `Train`.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary or the device fails.
    pub fn hidden(&self, packed: &Packed, pass: Pass) -> Result<Tensor> {
        self.hidden_by(packed, pass, Operations::of(&self.device, Precision::F32)?)
    }

    /// The same by these operations.
    pub(crate) fn hidden_by(&self, packed: &Packed, pass: Pass, operations: Operations) -> Result<Tensor> {
        tape::hidden(self, packed, pass, operations)
    }

    /// The same weights, frozen, with an adapter that learns in their place.
    #[must_use]
    pub fn with_adapter(self, adapter: Adapter) -> Transformer {
        Transformer { adapter: Some(adapter), ..self }
    }

    /// The adapter beside the weights.
    #[must_use]
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Its own tensors by GGUF name, which are trainable unless there is an adapter.
    #[must_use]
    pub fn parameters(&self) -> &BTreeMap<String, Var> {
        &self.parameters
    }

    /// Lets go of the parameters that do not stay; without them the tape cannot run.
    pub(crate) fn retain(&mut self, stays: impl Fn(&str, &Var) -> bool) {
        self.parameters.retain(|name, var| stays(name, var));
        let parameters = &self.parameters;
        self.weights.retain(|name, _| parameters.contains_key(name));
    }

    /// What its own weights are told apart by, in hex: SHA-256 of its vectors, which stay in f32 in every precision and which
    /// no tuning leaves as they were.
    ///
    /// # Errors
    /// When the device fails.
    pub fn fingerprint(&self) -> Result<String> {
        self.digest_vectors(|name| Ok(self.parameters[name].as_detached_tensor()))
    }

    /// Whether its own weights are those of a file, as far as the fingerprint tells.
    ///
    /// # Errors
    /// When the file lacks a tensor, or the device fails.
    pub fn is(&self, file: &Checkpoint) -> Result<bool> {
        Ok(self.fingerprint()? == self.digest_vectors(|name| Ok(file.tensor(name)?.clone()))?)
    }

    fn digest_vectors(&self, tensor: impl Fn(&str) -> Result<Tensor>) -> Result<String> {
        let mut digest = Sha256::new();
        for (name, _) in self.parameters.iter().filter(|(_, var)| var.dims().len() == 1) {
            digest.update(name.as_bytes());
            tensor(name)?.to_vec1::<f32>()?.iter().for_each(|x| digest.update(x.to_le_bytes()));
        }
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The numbers that shape it.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Where its weights lie.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The embedding table, which tied models also use as unembedding.
    pub(crate) fn embedding(&self) -> &Weight {
        &self.weights[llama::TOKEN_EMBEDDING]
    }
}

#[cfg(test)]
pub(crate) mod tests;
