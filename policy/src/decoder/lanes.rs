//! The processor's vectors, behind one trait: sixteen floats (AVX-512) or eight (AVX2, and whatever the compiler makes of arrays).
//!
//! Every number of a product has a lane to itself and is summed in order, one fused multiply-add a term, so all give the same
//! bits. Which of them there is, is settled when honed is compiled (`target-cpu=native`).

#[cfg(any(
    test,
    not(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma", target_feature = "f16c"))
))]
pub(super) mod portable;
#[cfg(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma", target_feature = "f16c"))]
mod x86;

#[cfg(not(all(
    target_arch = "x86_64",
    target_feature = "avx2",
    target_feature = "fma",
    target_feature = "f16c"
)))]
pub(super) use self::portable::Eight;
#[cfg(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma", target_feature = "f16c"))]
pub(super) use self::x86::*;

/// Whether there are vectors that multiply and add at once; without, the decoder would be slower than llama.cpp.
pub(super) const ARE_FAST: bool =
    cfg!(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma", target_feature = "f16c"));

/// Whether they are AVX-512's.
pub(super) const ARE_WIDE: bool = cfg!(all(target_arch = "x86_64", target_feature = "avx512f"));

/// A vector of the processor.
pub(super) trait Lanes: Copy {
    /// Floats in a vector.
    const WIDTH: usize;

    fn splat(x: f32) -> Self;

    /// From the first of `WIDTH` numbers on; so those below.
    ///
    /// # Safety
    /// They lie in one allocation.
    unsafe fn of_f32(at: *const u8) -> Self;

    /// # Safety
    /// As above.
    unsafe fn of_f16(at: *const u8) -> Self;

    /// # Safety
    /// As above.
    unsafe fn of_bf16(at: *const u8) -> Self;

    /// # Safety
    /// As above.
    unsafe fn of_i8(at: *const u8) -> Self;

    /// # Safety
    /// As above, and nobody else uses them.
    unsafe fn store(self, at: *mut f32);

    /// Has the cache line at this address brought near, if there is one.
    fn prefetch(at: *const u8);

    fn mul(self, other: Self) -> Self;

    /// self · factor + sum, rounded once.
    fn mul_add(self, factor: Self, sum: Self) -> Self;
}
