//! Eight floats in an array.

use half::{bf16, f16};

use super::Lanes;

/// An array as a vector.
#[derive(Clone, Copy)]
pub(in crate::decoder) struct Eight([f32; 8]);

/// Eight numbers from `at` on, as floats.
///
/// # Safety
/// They lie in one allocation.
unsafe fn read<T: Copy>(at: *const u8, float: impl Fn(T) -> f32) -> Eight {
    // SAFETY: the caller's.
    Eight(std::array::from_fn(|i| float(unsafe { at.cast::<T>().add(i).read_unaligned() })))
}

impl Lanes for Eight {
    const WIDTH: usize = 8;

    fn splat(x: f32) -> Self {
        Eight([x; 8])
    }

    unsafe fn of_f32(at: *const u8) -> Self {
        // SAFETY: the caller's, here and below.
        unsafe { read(at, |x: f32| x) }
    }

    unsafe fn of_f16(at: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { read(at, f16::to_f32) }
    }

    unsafe fn of_bf16(at: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { read(at, bf16::to_f32) }
    }

    unsafe fn of_i8(at: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { read(at, |x: i8| f32::from(x)) }
    }

    unsafe fn store(self, at: *mut f32) {
        for (i, x) in self.0.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { at.add(i).write_unaligned(x) }
        }
    }

    fn prefetch(_: *const u8) {}

    fn mul(self, other: Self) -> Self {
        Eight(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    fn mul_add(self, factor: Self, sum: Self) -> Self {
        Eight(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], sum.0[i])))
    }
}
