//! Who computes the operations of a pass on candle's tape: candle's plain operations, or on a GPU our own kernels.

use candle_core::{Device, Result, Tensor};

#[cfg(any(test, feature = "cuda-trainer"))]
use super::cuda;
use super::{Precision, Rotation, plain};
use crate::{sequence_batch::Packed, transformer::AttentionShape};

/// The operations of a device.
#[derive(Clone, Copy)]
pub(crate) enum Operations {
    /// candle's: the oracle.
    Plain,
    /// Ours, with the factors of matrix products in this precision.
    #[cfg(any(test, feature = "cuda-trainer"))]
    Fused(cuda::Machine, Precision),
}

/// The same with what the operations of one pass share.
pub(crate) struct PassOperations<'a> {
    packed: &'a Packed,
    rotation: Rotation,
    shape: AttentionShape,
    batch: OnMachine,
}

enum OnMachine {
    No,
    #[cfg(any(test, feature = "cuda-trainer"))]
    Yes(cuda::Machine, cuda::Batch, Precision),
}

impl Operations {
    /// Ours on the emulation of a GPU.
    #[cfg(test)]
    pub(crate) fn emulated(precision: Precision) -> Operations {
        Operations::Fused(cuda::Machine::emulated(0), precision)
    }

    /// Ours where there are some. `precision`: of the factors of matrix products; candle's are f32.
    ///
    /// # Errors
    /// When our kernels cannot be loaded.
    pub(crate) fn of(device: &Device, precision: Precision) -> Result<Operations> {
        #[cfg(any(test, feature = "cuda-trainer"))]
        if let Some(machine) = cuda::Machine::of(device)? {
            return Ok(Operations::Fused(machine, precision));
        }
        let _ = (device, precision);
        Ok(Operations::Plain)
    }

    /// Makes ready for a pass over these sequences.
    ///
    /// # Errors
    /// When heads are wider than our kernels know, or the device fails.
    pub(crate) fn open<'a>(
        self,
        packed: &'a Packed,
        rotation: Rotation,
        shape: AttentionShape,
    ) -> Result<PassOperations<'a>> {
        let batch = match self {
            Operations::Plain => OnMachine::No,
            #[cfg(any(test, feature = "cuda-trainer"))]
            Operations::Fused(machine, precision) => {
                OnMachine::Yes(machine, cuda::Batch::new(machine, packed, &rotation, shape)?, precision)
            }
        };
        Ok(PassOperations { packed, rotation, shape, batch })
    }

    /// Some rows of a table, `[indices, width]`: embeddings of tokens, hidden states that a head reads.
    ///
    /// # Errors
    /// When an index lies outside the table or the device fails.
    pub(crate) fn rows(self, table: &Tensor, indices: &[u32]) -> Result<Tensor> {
        match self {
            Operations::Plain => table.index_select(&Tensor::new(indices, table.device())?, 0),
            #[cfg(any(test, feature = "cuda-trainer"))]
            Operations::Fused(machine, _) => cuda::rows(machine, table, indices),
        }
    }

    /// Log-prob of each row's target, and entropy of its distribution, `[n]` each, nats, differentiable.
    ///
    /// `hidden [n, width]`, `unembedding [vocab, width]`; logits are divided by the row's temperature.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn log_probs(
        self,
        hidden: &Tensor,
        unembedding: &Tensor,
        targets: &[u32],
        temperatures: &[f64],
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Operations::Plain => {
                let logits = plain::linear(hidden, unembedding)?;
                Ok((plain::log_prob_gather(&logits, targets, temperatures)?, plain::entropy(&logits, temperatures)?))
            }
            #[cfg(any(test, feature = "cuda-trainer"))]
            Operations::Fused(machine, precision) => {
                let factors = [hidden, unembedding];
                let both = cuda::log_probs(machine, factors, targets, temperatures, cuda::CHUNK_BYTES, precision)?;
                Ok((both.get(0)?, both.get(1)?))
            }
        }
    }

    /// Σ x² over all numbers of all tensors.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn sum_of_squares(self, tensors: &[&Tensor]) -> Result<f64> {
        match self {
            Operations::Plain => {
                let squares = |tensor: &&Tensor| Ok(f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?));
                tensors.iter().map(squares).sum()
            }
            #[cfg(any(test, feature = "cuda-trainer"))]
            Operations::Fused(machine, _) => cuda::sum_of_squares(machine, tensors),
        }
    }
}

impl PassOperations<'_> {
    /// As [`plain::linear`].
    pub(crate) fn linear(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        match &self.batch {
            #[cfg(any(test, feature = "cuda-trainer"))]
            OnMachine::Yes(machine, _, Precision::Bf16) => cuda::linear(*machine, x, weight, Precision::Bf16),
            _ => plain::linear(x, weight),
        }
    }

    /// As [`plain::rms_norm`].
    pub(crate) fn rms_norm(&self, x: &Tensor, gain: &Tensor, eps: f64) -> Result<Tensor> {
        match &self.batch {
            OnMachine::No => plain::rms_norm(x, gain, eps),
            #[cfg(any(test, feature = "cuda-trainer"))]
            OnMachine::Yes(machine, ..) => cuda::rms_norm(*machine, x, gain, eps),
        }
    }

    /// As [`plain::rope`].
    pub(crate) fn rope(&self, x: &Tensor) -> Result<Tensor> {
        match &self.batch {
            OnMachine::No => plain::rope(x, &self.rotation),
            #[cfg(any(test, feature = "cuda-trainer"))]
            OnMachine::Yes(_, batch, _) => batch.rope(x),
        }
    }

    /// As [`plain::attention`].
    pub(crate) fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        match &self.batch {
            OnMachine::No => plain::attention(q, k, v, self.packed, self.shape),
            #[cfg(any(test, feature = "cuda-trainer"))]
            OnMachine::Yes(_, batch, _) => batch.attention(q, k, v),
        }
    }

    /// As [`plain::swiglu`].
    pub(crate) fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match &self.batch {
            OnMachine::No => plain::swiglu(gate, up),
            #[cfg(any(test, feature = "cuda-trainer"))]
            OnMachine::Yes(machine, ..) => cuda::swiglu(*machine, gate, up),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a pass rounds its readout rounds too. Method: log-probs of numbers that bf16 cannot hold, in both precisions.
    #[test]
    fn the_readout_is_in_the_precision_of_the_pass() {
        let matrix = |n: usize| {
            let numbers: Vec<f32> = (0..n * 3).map(|i| 1.0 + (i as f32 * 0.37).sin() / 300.0).collect();
            Tensor::from_vec(numbers, (n, 3), &Device::Cpu).unwrap()
        };
        let (hidden, unembedding) = (matrix(2), matrix(5));
        let read = |precision: Precision| {
            let read = Operations::emulated(precision).log_probs(&hidden, &unembedding, &[4, 1], &[1.0, 1.0]).unwrap();
            read.0.to_vec1::<f32>().unwrap()
        };
        let plain = Operations::Plain.log_probs(&hidden, &unembedding, &[4, 1], &[1.0, 1.0]).unwrap();
        let plain = plain.0.to_vec1::<f32>().unwrap();
        let apart = |a: &[f32]| a.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart(&read(Precision::F32)) < 1e-6);
        assert!(apart(&read(Precision::Bf16)) > 1e-4);
    }
}
