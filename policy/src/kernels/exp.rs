//! An exponential that the compiler can vectorise: the library's is a call per element and would dominate softmax.

/// e^x for f32 within 2 units in the last place; results below the smallest normal number become that number, NaN stays.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by a polynomial of degree 6 (Taylor), 2^n through the exponent's bits.
#[inline(always)]
#[allow(clippy::manual_clamp)] // `clamp` would vectorise too, but comparisons that keep NaN are the point.
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few bits, so that n · LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = (1.0f32 / 720.0).mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0).mul_add(r, 1.0 / 6.0).mul_add(r, 0.5).mul_add(r, 1.0).mul_add(r, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Replaces scores by softmax weights in place and returns the logarithm of their sum before normalisation.
#[inline]
pub(crate) fn softmax(scores: &mut [f32]) -> f32 {
    let max = max(scores);
    scores.iter_mut().for_each(|s| *s = exp(*s - max));
    let sum = sum(scores);
    let inverse = 1.0 / sum;
    scores.iter_mut().for_each(|s| *s *= inverse);
    max + sum.ln()
}

/// Partial results that keep one vector register busy: a float sum in order cannot be vectorised, sixteen in step can.
const LANES: usize = 16;

/// Largest entry; NaN anywhere gives NaN or is seen by the sum that follows.
#[inline]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    for chunk in chunks {
        partial.iter_mut().zip(chunk).for_each(|(m, &v)| *m = if v > *m { v } else { *m });
    }
    partial.into_iter().fold(rest, |m, v| if v > m { v } else { m })
}

/// Sum of all entries.
#[inline]
pub(super) fn sum(x: &[f32]) -> f32 {
    let mut partial = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        partial.iter_mut().zip(chunk).for_each(|(s, &v)| *s += v);
    }
    partial.into_iter().sum::<f32>() + rest
}

/// Σ f(x)·g(y) by parts: the dot product of two rows.
#[inline]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut partial = [0.0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in xs.zip(ys) {
        for i in 0..LANES {
            partial[i] = a[i].mul_add(b[i], partial[i]);
        }
    }
    partial.into_iter().sum::<f32>() + rest
}

/// Σ x·y·z by parts.
#[inline]
pub(super) fn dot3(x: &[f32], y: &[f32], z: &[f32]) -> f32 {
    let mut partial = [0.0f32; LANES];
    let (xs, ys, zs) = (x.chunks_exact(LANES), y.chunks_exact(LANES), z.chunks_exact(LANES));
    let rests = xs.remainder().iter().zip(ys.remainder()).zip(zs.remainder());
    let rest: f32 = rests.map(|((a, b), c)| a * b * c).sum();
    for ((a, b), c) in xs.zip(ys).zip(zs) {
        for i in 0..LANES {
            partial[i] = (a[i] * b[i]).mul_add(c[i], partial[i]);
        }
    }
    partial.into_iter().sum::<f32>() + rest
}
