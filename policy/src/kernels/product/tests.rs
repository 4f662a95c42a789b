use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::kernels::matrix::Precision;

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// Σ_k a_ik·b_kj in f64, with factors read through closures: the naive twin of all three products.
fn naive(m: usize, n: usize, k: usize, a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<f64> {
    let entry = |i: usize, j: usize| (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j))).sum();
    (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect()
}

fn check(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    let worst = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
    assert!(worst < tolerance, "{what} is off by {worst}");
}

/// Goal: all three products in both precisions are right, split or not, with and without a result to add to. Method:
/// ragged sides around the grain of a split, against sums in f64 of the very numbers that the product saw.
#[test]
fn products_equal_their_naive_twins() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let precisions: &[Precision] =
        if bf16_level() > 0 { &[Precision::F32, Precision::Bf16] } else { &[Precision::F32] };
    for &precision in precisions {
        for (rows, out, inner) in [(1, 1, 1), (3, 5, 2), (70, 300, 33), (500, 130, 257), (129, 700, 128)] {
            let (x, w, g) =
                (random(&mut rng, rows * inner), random(&mut rng, out * inner), random(&mut rng, rows * out));
            let seen = |values: &[f32]| -> Vec<f32> {
                match precision {
                    Precision::F32 => values.to_vec(),
                    Precision::Bf16 => values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect(),
                }
            };
            let (sx, sw, sg) = (seen(&x), seen(&w), seen(&g));
            let matrix = |values, cols| Matrix::new(values, cols, precision);
            let (x, w, g) = (matrix(&x, inner), matrix(&w, inner), matrix(&g, out));
            let what = format!("{} {rows}x{out}x{inner}", precision.as_str());

            let mut want = naive(rows, out, inner, |i, l| sx[i * inner + l], |l, j| sw[j * inner + l]);
            let mut y = vec![f32::NAN; rows * out];
            forward(&x, &w, &mut y, false);
            check(&y, &want, 1e-4, &format!("y of {what}"));
            forward(&x, &w, &mut y, true);
            want.iter_mut().for_each(|v| *v *= 2.0);
            check(&y, &want, 2e-4, &format!("y twice of {what}"));

            let want = naive(rows, inner, out, |i, l| sg[i * out + l], |l, j| sw[l * inner + j]);
            let mut dx = vec![f32::NAN; rows * inner];
            input_gradient(&g, &w, &mut dx, false);
            check(&dx, &want, 2e-4, &format!("dx of {what}"));

            let mut want = naive(out, inner, rows, |i, l| sg[l * out + i], |l, j| sx[l * inner + j]);
            let mut dw = vec![0.5; out * inner];
            weight_gradient(&g, &x, &mut dw, true);
            want.iter_mut().for_each(|v| *v += 0.5);
            check(&dw, &want, 2e-4, &format!("dW of {what}"));
        }
    }
}

/// Goal: a result does not depend on how many threads computed it. Method: bits on one, two and five threads.
#[test]
fn products_have_the_same_bits_on_any_number_of_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let (rows, out, inner) = (300, 520, 256);
    let (x, w) = (random(&mut rng, rows * inner), random(&mut rng, out * inner));
    let bits = |threads: usize| {
        crate::threads::learner_pool(threads).unwrap().install(|| {
            let mut y = vec![0.0; rows * out];
            forward(&Matrix::new(&x, inner, Precision::F32), &Matrix::new(&w, inner, Precision::F32), &mut y, false);
            y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    assert_eq!(bits(1), bits(2));
    assert_eq!(bits(1), bits(5));
}

/// Goal: candle's product, which stands in where oneDNN is absent, gives the same. Method: the same piece on both.
#[test]
fn the_stand_in_agrees() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let (m, n, k) = (37, 91, 64);
    let (a, b) = (random(&mut rng, m * k), random(&mut rng, n * k));
    let (a, b) = (Matrix::new(&a, k, Precision::F32), Matrix::new(&b, k, Precision::F32));
    let (mut first, mut second) = (vec![0.25; m * n], vec![0.25; m * n]);
    let target = |out: &mut [f32]| Target { start: out.as_mut_ptr(), row_stride: n };
    one(Factor::of(&a), Factor::of(&b).transposed(), target(&mut first), true);
    candle::run(Factor::of(&a), Factor::of(&b).transposed(), target(&mut second), true);
    check(&first, &second.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), 1e-5, "candle's product");
}
