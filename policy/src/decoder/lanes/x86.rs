//! AVX-512 and AVX2.

use std::arch::x86_64::*;

use super::Lanes;

/// AVX-512's.
#[cfg(target_feature = "avx512f")]
#[derive(Clone, Copy)]
pub(in crate::decoder) struct Sixteen(__m512);

#[cfg(target_feature = "avx512f")]
impl Lanes for Sixteen {
    const WIDTH: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: compiled only where the processor has the instruction, here and below.
        Sixteen(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn of_f32(at: *const u8) -> Self {
        // SAFETY: the caller's, here and below: the numbers lie in one allocation from `at` on.
        Sixteen(unsafe { _mm512_loadu_ps(at.cast()) })
    }

    #[inline(always)]
    unsafe fn of_f16(at: *const u8) -> Self {
        // SAFETY: as above.
        Sixteen(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) })
    }

    #[inline(always)]
    unsafe fn of_bf16(at: *const u8) -> Self {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            Sixteen(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)))
        }
    }

    #[inline(always)]
    unsafe fn of_i8(at: *const u8) -> Self {
        // SAFETY: as above.
        Sixteen(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a hint, which no address makes a fault of.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        Sixteen(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: as above.
        Sixteen(unsafe { _mm512_fmadd_ps(self.0, factor.0, sum.0) })
    }
}

/// AVX2's.
#[cfg(any(test, not(target_feature = "avx512f")))]
#[derive(Clone, Copy)]
pub(in crate::decoder) struct Eight(__m256);

#[cfg(any(test, not(target_feature = "avx512f")))]
impl Lanes for Eight {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: compiled only where the processor has the instruction, here and below.
        Eight(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn of_f32(at: *const u8) -> Self {
        // SAFETY: the caller's, here and below: the numbers lie in one allocation from `at` on.
        Eight(unsafe { _mm256_loadu_ps(at.cast()) })
    }

    #[inline(always)]
    unsafe fn of_f16(at: *const u8) -> Self {
        // SAFETY: as above.
        Eight(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) })
    }

    #[inline(always)]
    unsafe fn of_bf16(at: *const u8) -> Self {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            Eight(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)))
        }
    }

    #[inline(always)]
    unsafe fn of_i8(at: *const u8) -> Self {
        // SAFETY: as above.
        Eight(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a hint, which no address makes a fault of.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        Eight(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: as above.
        Eight(unsafe { _mm256_fmadd_ps(self.0, factor.0, sum.0) })
    }
}
