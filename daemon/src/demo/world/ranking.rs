//! K-way rankings by a labeler who is human: noisy, and with ties.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::gold::Gold;

/// Answers per ranking (InstructGPT 3.5: K = 4 to 9).
pub const ANSWERS: std::ops::RangeInclusive<usize> = 4..=9;

/// Ranks answers, 1 the best; equal ranks are ties.
///
/// The labeler gives each answer a grade from 1 to 7 (InstructGPT's Likert scale): 1 + 6·(gold + 1)/2 + N(0, `noise`),
/// rounded. Ranks are dense ranks of grades, so answers of about the same worth tie.
pub fn rank(golds: &[Gold], noise: f64, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let grades: Vec<i64> = golds
        .iter()
        .map(|gold| (1.0 + 3.0 * (gold.total() + 1.0) + noise * standard_normal(rng)).round() as i64)
        .collect();
    let mut levels = grades.clone();
    levels.sort_unstable_by(|a, b| b.cmp(a));
    levels.dedup();
    let rank_of =
        |grade: &i64| levels.iter().position(|level| level == grade).expect("every grade is a level") as u32 + 1;
    grades.iter().map(rank_of).collect()
}

/// One draw from N(0, 1) (Box and Muller 1958).
pub(crate) fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    // 1 − u is in (0, 1], whose logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
