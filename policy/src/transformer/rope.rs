//! Rotary positions: which pair turns how fast.

use candle_core::{DType, Tensor};

use crate::{
    architecture::Shape,
    kernels::Rotation,
    model_error::{ModelError, Result},
    sequence_batch::Packed,
};

/// The frequencies of a model, frozen.
#[derive(Clone)]
pub(crate) struct Rope {
    frequencies: Vec<f32>,
    head_dim: usize,
}

impl Rope {
    /// frequency_i = scale · theta^(-2i / rope_dims) / factor_i, with the factors of the file's `rope_freqs` if it has any
    /// (Llama 3.1's long-context scaling).
    pub(crate) fn new(shape: &Shape, factors: Option<&Tensor>) -> Result<Rope> {
        let half = shape.rope_dims / 2;
        let factors = match factors {
            Some(t) => t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?,
            None => vec![1.0; half],
        };
        if factors.len() != half {
            return Err(ModelError::TensorShape {
                name: crate::architecture::llama::ROPE_FREQS.to_owned(),
                expected: vec![half],
                got: vec![factors.len()],
            });
        }
        // In f64, so that the wavelengths of long contexts do not depend on the order of roundings.
        let frequency = |i: usize| {
            let exponent = -2.0 * i as f64 / shape.rope_dims as f64;
            f64::from(shape.rope_scale) * f64::from(shape.rope_theta).powf(exponent) / f64::from(factors[i])
        };
        Ok(Rope { frequencies: (0..half).map(|i| frequency(i) as f32).collect(), head_dim: shape.head_dim })
    }

    /// Of each pair, in radians a position.
    pub(crate) fn into_frequencies(self) -> Vec<f32> {
        self.frequencies
    }

    /// The angles of one batch.
    pub(super) fn rotation(&self, packed: &Packed) -> Rotation {
        Rotation::new(&packed.positions, &self.frequencies, self.head_dim)
    }
}
