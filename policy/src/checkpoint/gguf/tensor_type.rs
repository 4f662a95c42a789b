//! Types of a tensor's numbers: how they lie in a file, and where in it a number can fail to be one.
//!
//! Sizes are ggml's (`ggml-common.h`): numbers come in blocks, in quantised types with a scale or two in f16 for each. A block
//! of integers is always a number; its scale need not be, and one infinite scale spoils a whole row.

/// Where numbers that could be infinite or none lie in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// The block is one f32.
    F32,
    /// The block is one f64.
    F64,
    /// The block is one bf16.
    Bf16,
    /// f16 numbers at these bytes of the block.
    F16(&'static [usize]),
    /// Integers only.
    None,
    /// Scales in a form that is not looked into here.
    Unknown,
}

/// One type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// As ggml calls it.
    pub name: &'static str,
    /// Numbers of a block.
    pub block: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Its numbers that could fail to be one.
    pub scales: Scales,
    /// Whether a matrix of a version may have it: llama.cpp multiplies by it, and the trainer reads it.
    pub is_weight: bool,
}

const fn plain(name: &'static str, block_bytes: u64, scales: Scales) -> TensorType {
    TensorType { name, block: 1, block_bytes, scales, is_weight: !matches!(scales, Scales::None | Scales::F64) }
}

const fn blocks(name: &'static str, block: u64, block_bytes: u64, at: &'static [usize]) -> TensorType {
    TensorType { name, block, block_bytes, scales: Scales::F16(at), is_weight: true }
}

/// Types that one of the two does not compute with.
const fn other(name: &'static str, block: u64, block_bytes: u64, scales: Scales) -> TensorType {
    TensorType { name, block, block_bytes, scales, is_weight: false }
}

impl TensorType {
    /// The type of a code; `None` for codes that no build of ggml that we know has, or has no more.
    #[must_use]
    pub fn of(code: u32) -> Option<TensorType> {
        const START: Scales = Scales::F16(&[0]);
        Some(match code {
            0 => plain("F32", 4, Scales::F32),
            1 => plain("F16", 2, START),
            2 => blocks("Q4_0", 32, 18, &[0]),
            3 => blocks("Q4_1", 32, 20, &[0, 2]),
            6 => blocks("Q5_0", 32, 22, &[0]),
            7 => blocks("Q5_1", 32, 24, &[0, 2]),
            8 => blocks("Q8_0", 32, 34, &[0]),
            9 => other("Q8_1", 32, 36, Scales::F16(&[0, 2])),
            10 => blocks("Q2_K", 256, 84, &[80, 82]),
            11 => blocks("Q3_K", 256, 110, &[108]),
            12 => blocks("Q4_K", 256, 144, &[0, 2]),
            13 => blocks("Q5_K", 256, 176, &[0, 2]),
            14 => blocks("Q6_K", 256, 210, &[208]),
            15 => other("Q8_K", 256, 292, Scales::Unknown),
            16 => other("IQ2_XXS", 256, 66, START),
            17 => other("IQ2_XS", 256, 74, START),
            18 => other("IQ3_XXS", 256, 98, START),
            19 => other("IQ1_S", 256, 50, START),
            20 => other("IQ4_NL", 32, 18, START),
            21 => other("IQ3_S", 256, 110, START),
            22 => other("IQ2_S", 256, 82, START),
            23 => other("IQ4_XS", 256, 136, START),
            24 => plain("I8", 1, Scales::None),
            25 => plain("I16", 2, Scales::None),
            26 => plain("I32", 4, Scales::None),
            27 => plain("I64", 8, Scales::None),
            28 => plain("F64", 8, Scales::F64),
            29 => other("IQ1_M", 256, 56, Scales::Unknown),
            30 => plain("BF16", 2, Scales::Bf16),
            34 => other("TQ1_0", 256, 54, Scales::F16(&[52])),
            35 => other("TQ2_0", 256, 66, Scales::F16(&[64])),
            39 => other("MXFP4", 32, 17, Scales::Unknown),
            40 => other("NVFP4", 64, 36, Scales::Unknown),
            41 => other("Q1_0", 128, 18, START),
            42 => other("Q2_0", 64, 18, START),
            _ => return None,
        })
    }

    /// Bytes of a tensor, its rows' length first.
    pub(super) fn n_bytes(&self, dims: &[u64]) -> Result<u64, String> {
        if dims.contains(&0) {
            return Err(format!("dimensions {dims:?}, expected 1 or more each"));
        }
        if !dims[0].is_multiple_of(self.block) {
            return Err(format!(
                "rows of {} numbers, expected whole blocks of {} ({})",
                dims[0], self.block, self.name
            ));
        }
        let n_numbers = dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        n_numbers
            .and_then(|n| (n / self.block).checked_mul(self.block_bytes))
            .ok_or_else(|| format!("dimensions {dims:?} are more than any file holds"))
    }
}
