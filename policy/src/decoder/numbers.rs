//! The types of weights, and how each lies in a panel.

use super::lanes::Lanes;

/// Columns of a panel.
pub(super) const PANEL: usize = 32;
/// Steps of a sum that share a scale in Q8_0.
pub(super) const BLOCK: usize = 32;

/// Type of the numbers of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 whole numbers, each column's with a scale in f16.
    Q8,
}

impl Kind {
    /// Bytes of a panel of `depth` steps; of Q8 they are whole blocks.
    pub(super) fn panel_bytes(self, depth: usize) -> usize {
        match self {
            Kind::F32 => depth * F32::ROW,
            Kind::F16 => depth * F16::ROW,
            Kind::Bf16 => depth * Bf16::ROW,
            Kind::Q8 => depth.div_ceil(BLOCK) * Q8::BLOCK_BYTES,
        }
    }
}

/// How a panel's numbers lie.
pub(super) trait Numbers {
    /// Bytes of a block of 32 steps, and of a step.
    const BLOCK_BYTES: usize;
    const STEP_BYTES: usize;

    /// What the block's numbers in the vector from `column` on are multiplied by.
    unsafe fn scale<L: Lanes>(block: *const u8, column: usize) -> L;

    /// The numbers of step `k` of the block from `column` on.
    unsafe fn read<L: Lanes>(block: *const u8, k: usize, column: usize, scale: L) -> L;
}

/// Numbers that are read as they are.
macro_rules! plain {
    ($name:ident, $bytes:expr, $read:ident) => {
        pub(super) struct $name;

        impl $name {
            const ROW: usize = PANEL * $bytes;
        }

        impl Numbers for $name {
            const BLOCK_BYTES: usize = BLOCK * Self::ROW;
            const STEP_BYTES: usize = Self::ROW;

            #[inline(always)]
            unsafe fn scale<L: Lanes>(_: *const u8, _: usize) -> L {
                L::splat(1.0)
            }

            #[inline(always)]
            unsafe fn read<L: Lanes>(block: *const u8, k: usize, column: usize, _: L) -> L {
                // SAFETY: the caller's: step `k` is in the block, and the vector in its row.
                unsafe { L::$read(block.add(k * Self::ROW + column * $bytes)) }
            }
        }
    };
}

plain!(F32, 4, of_f32);
plain!(F16, 2, of_f16);
plain!(Bf16, 2, of_bf16);

pub(super) struct Q8;

impl Q8 {
    /// 32 scales come before a block's numbers.
    const SCALES: usize = PANEL * 2;
}

impl Numbers for Q8 {
    const BLOCK_BYTES: usize = Self::SCALES + BLOCK * PANEL;
    const STEP_BYTES: usize = PANEL;

    #[inline(always)]
    unsafe fn scale<L: Lanes>(block: *const u8, column: usize) -> L {
        // SAFETY: the caller's: the vector is in the panel.
        unsafe { L::of_f16(block.add(column * 2)) }
    }

    #[inline(always)]
    unsafe fn read<L: Lanes>(block: *const u8, k: usize, column: usize, scale: L) -> L {
        // SAFETY: the caller's: step `k` is in the block, and the vector in its row.
        unsafe { L::of_i8(block.add(Self::SCALES + k * PANEL + column)).mul(scale) }
    }
}
