//! Matrices as the products take them: f32, or rounded to bf16.
//!
//! Only the factors of a matrix product are ever bf16; what a product yields, the residual stream, norms, softmax, losses,
//! gradients and master weights stay f32. A logit of 20 in bf16 is off by 0.06, which would ruin ratios of probabilities.

use std::borrow::Cow;

use half::bf16;
use rayon::prelude::*;

use super::product;
use crate::model_error::{ModelError, Result};

/// In what the factors of matrix products are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// Brain floating point: the exponent of f32 with 8 bits of mantissa, sums in f32.
    Bf16,
}

impl Precision {
    /// What `dtype` means on this processor: "f32", "bf16", or "auto", which is bf16 where the processor multiplies it in
    /// hardware and the model is large enough to gain from it. A small model's products cost little in f32, and its log-probs
    /// then agree with the engine's to five digits.
    ///
    /// # Errors
    /// When bf16 is asked for and this processor does not multiply it.
    pub fn choose(dtype: &str, is_small: bool) -> Result<Precision> {
        match (dtype, product::bf16_level() > 0) {
            ("bf16", false) => {
                let needs = "bf16 needs AVX512-BF16 or AMX, and oneDNN (Debian: libdnnl-dev at build time)";
                Err(ModelError::Precision(format!("dtype: {needs}; use f32")))
            }
            ("bf16", true) => Ok(Precision::Bf16),
            ("auto", true) if !is_small => Ok(Precision::Bf16),
            _ => Ok(Precision::F32),
        }
    }

    /// What `dtype` means on a GPU: bf16 where it is asked for. Every GPU that our kernels know multiplies it; "auto" is f32 there, since
    /// none of them has run on one yet.
    #[must_use]
    pub fn on_gpu(dtype: &str) -> Precision {
        if dtype == "bf16" { Precision::Bf16 } else { Precision::F32 }
    }

    /// Its name in configs, logs and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// A number that a kernel can write into a factor.
pub(crate) trait Number: Copy + Default + Send + Sync {
    /// The nearest number of this type.
    fn near(x: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn near(x: f32) -> f32 {
        x
    }
}

impl Number for bf16 {
    /// To the nearest, ties to even, without a branch, so that loops over it become vector code. NaN stays NaN.
    #[inline(always)]
    fn near(x: f32) -> bf16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        bf16::from_bits(if x.is_nan() { 0x7fc0 } else { (rounded >> 16) as u16 })
    }
}

/// Row-major numbers, lent or owned.
#[derive(Clone, Debug)]
pub(crate) enum Values<'a> {
    F32(Cow<'a, [f32]>),
    Bf16(Cow<'a, [bf16]>),
}

/// `[rows, cols]`, row after row.
#[derive(Clone, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) values: Values<'a>,
}

/// Numbers that one task converts.
const CHUNK: usize = 1 << 15;

impl<'a> Matrix<'a> {
    /// These numbers: as they are in f32, as a rounded copy in bf16.
    pub(crate) fn new(values: &'a [f32], cols: usize, precision: Precision) -> Matrix<'a> {
        let rows = values.len() / cols.max(1);
        let values = match precision {
            Precision::F32 => Values::F32(Cow::Borrowed(values)),
            Precision::Bf16 => Values::Bf16(Cow::Owned(rounded(values))),
        };
        Matrix { rows, cols, values }
    }

    /// Fills a new matrix row by row, in the precision of the product that will read it.
    pub(crate) fn by_rows(rows: usize, cols: usize, precision: Precision, fill: impl FillRow) -> Matrix<'static> {
        let values = match precision {
            Precision::F32 => {
                let mut out = vec![0.0f32; rows * cols];
                super::rows::for_rows(&mut out, cols, |row, out| fill.fill(row, out));
                Values::F32(Cow::Owned(out))
            }
            Precision::Bf16 => {
                let mut out = vec![bf16::ZERO; rows * cols];
                super::rows::for_rows(&mut out, cols, |row, out| fill.fill(row, out));
                Values::Bf16(Cow::Owned(out))
            }
        };
        Matrix { rows, cols, values }
    }
}

/// Writes one row, in whatever type.
pub(crate) trait FillRow: Sync {
    fn fill<N: Number>(&self, row: usize, out: &mut [N]);
}

/// To bf16, on several threads where there is enough to do.
pub(crate) fn rounded(values: &[f32]) -> Vec<bf16> {
    let mut out = vec![bf16::ZERO; values.len()];
    let convert = |(out, values): (&mut [bf16], &[f32])| {
        out.iter_mut().zip(values).for_each(|(o, &x)| *o = bf16::near(x));
    };
    if values.len() <= CHUNK {
        convert((&mut out, values));
    } else {
        out.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(convert);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate_also_at_ties_and_edges() {
        let mut values: Vec<f32> = (0..60_000).map(|i| f32::from_bits(i * 71_583)).collect();
        values.extend([0.0, -0.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::MAX, f32::INFINITY, f32::MIN_POSITIVE]);
        for x in values {
            let (ours, theirs) = (bf16::near(x), bf16::from_f32(x));
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{x:e}");
        }
    }
}
