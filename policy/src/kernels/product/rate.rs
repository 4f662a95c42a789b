//! How fast this machine multiplies: for `honed doctor`, never for a decision.

use std::time::{Duration, Instant};

use super::{
    super::matrix::{Matrix, Precision},
    forward,
};

/// Rows, outputs and inputs of the product: a micro-batch through a layer of a small model.
const SIDES: (usize, usize, usize) = (512, 1536, 576);
const PATIENCE: Duration = Duration::from_millis(200);

/// GFLOP/s of the layers' product in the current rayon pool: the best of as many as fit into a fifth of a second.
#[must_use]
pub fn gflops(precision: Precision) -> f64 {
    let (rows, out, inner) = SIDES;
    let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| (i % 17) as f32 * 0.01).collect() };
    let (x, w) = (numbers(rows * inner), numbers(out * inner));
    let (x, w) = (Matrix::new(&x, inner, precision), Matrix::new(&w, inner, precision));
    let mut y = vec![0.0; rows * out];
    let (started, mut best) = (Instant::now(), f64::INFINITY);
    while started.elapsed() < PATIENCE || best.is_infinite() {
        let before = Instant::now();
        forward(&x, &w, &mut y, false);
        best = best.min(before.elapsed().as_secs_f64());
    }
    2.0 * (rows * out * inner) as f64 / best / 1e9
}
