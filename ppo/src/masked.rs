//! Means, variances and whitening over the tokens that a mask lets through.
//!
//! A mask is an argument here, never a convention about padding. What it hides is not multiplied by zero but skipped:
//! NaN · 0 is NaN, and one infinite logit behind a mask would otherwise poison a whole batch.

/// Cuts a flat slice into its sequences.
///
/// # Panics
/// When the lengths do not add up to the slice: only a bug can do that, and it would mix tokens of different responses.
pub fn split<'a, T>(flat: &'a [T], lengths: &'a [usize]) -> impl Iterator<Item = &'a [T]> + 'a {
    assert_eq!(lengths.iter().sum::<usize>(), flat.len(), "the lengths cover the tokens");
    let mut start = 0;
    lengths.iter().map(move |n| {
        let sequence = &flat[start..start + n];
        start += n;
        sequence
    })
}

/// How many entries the mask lets through.
#[must_use]
pub fn count(mask: &[bool]) -> usize {
    mask.iter().filter(|keep| **keep).count()
}

/// The entries that the mask lets through, in order.
///
/// # Panics
/// When the lengths differ.
pub fn kept<'a>(x: &'a [f64], mask: &'a [bool]) -> impl Iterator<Item = f64> + 'a {
    assert_eq!(x.len(), mask.len(), "one mask entry per value");
    x.iter().zip(mask).filter(|(_, keep)| **keep).map(|(v, _)| *v)
}

/// `Σ x·m / Σ m`; 0 when nothing is let through.
#[must_use]
pub fn mean(x: &[f64], mask: &[bool]) -> f64 {
    match count(mask) {
        0 => 0.0,
        n => kept(x, mask).sum::<f64>() / n as f64,
    }
}

/// What a variance is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variance {
    /// By n: OpenAI's and ours.
    Population,
    /// By n − 1: TRL's and verl's.
    Sample,
}

/// Variance over the mask; 0 when there are too few entries to have one.
#[must_use]
pub fn variance(x: &[f64], mask: &[bool], kind: Variance) -> f64 {
    let n = count(mask);
    let divisor = match kind {
        Variance::Population => n,
        Variance::Sample => n.saturating_sub(1),
    };
    if divisor == 0 {
        return 0.0;
    }
    let centre = mean(x, mask);
    kept(x, mask).map(|v| (v - centre) * (v - centre)).sum::<f64>() / divisor as f64
}

/// Added to the variance, inside the root (`lm-human-preferences` `utils/core.py:whiten`).
pub const WHITEN_EPS: f64 = 1e-8;

/// Variants of whitening; the default is the one for advantages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whitening {
    /// Remove the mean; false keeps it, which is how rewards are whitened where that is done.
    pub removes_mean: bool,
    /// The variance's divisor.
    pub variance: Variance,
}

impl Default for Whitening {
    fn default() -> Self {
        Whitening { removes_mean: true, variance: Variance::Population }
    }
}

/// Scales to variance 1 over the mask, and usually to mean 0.
///
/// `y = (x − mean)·(var + 1e-8)^−½ [+ mean]`.
/// Source: `lm-human-preferences` `utils/core.py:whiten`; Ziegler et al. (arXiv 1909.08593).
/// - `x`: `[n]`, any unit; `mask`: `[n]`.
///
/// Returns `[n]`, 0 where the mask is false. A single entry, and entries that are all equal, become 0 (or stay the mean).
/// Differs from TRL and verl in the population variance; whitening never happens before returns are computed.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn whiten(x: &[f64], mask: &[bool], options: Whitening) -> Vec<f64> {
    assert_eq!(x.len(), mask.len(), "one mask entry per value");
    let centre = mean(x, mask);
    let scale = 1.0 / (variance(x, mask, options.variance) + WHITEN_EPS).sqrt();
    let shift = if options.removes_mean { 0.0 } else { centre };
    x.iter().zip(mask).map(|(v, keep)| if *keep { (v - centre) * scale + shift } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Variance, Whitening, mean, split, variance, whiten};

    #[test]
    fn whitened_values_have_mean_zero_and_variance_one() {
        let mask = [true, false, true, true];
        let y = whiten(&[3.0, f64::INFINITY, -1.0, 7.0], &mask, Whitening::default());
        assert!(mean(&y, &mask).abs() < 1e-12);
        assert!((variance(&y, &mask, Variance::Population) - 1.0).abs() < 1e-8);
        assert_eq!(y[1], 0.0, "what the mask hides stays hidden");
    }

    #[test]
    fn one_token_or_equal_tokens_whiten_to_zero() {
        assert_eq!(whiten(&[5.0], &[true], Whitening::default()), vec![0.0]);
        assert_eq!(whiten(&[5.0, 5.0], &[true, true], Whitening::default()), vec![0.0, 0.0]);
        assert_eq!(whiten(&[], &[], Whitening::default()), Vec::<f64>::new());
        let sample = Whitening { variance: Variance::Sample, ..Whitening::default() };
        assert_eq!(whiten(&[5.0], &[true], sample), vec![0.0]);
    }

    #[test]
    fn whitening_ignores_shift_and_scale() {
        let mask = [true; 4];
        let x = [1.0, -2.0, 0.5, 4.0];
        let moved: Vec<f64> = x.iter().map(|v| 1000.0 * v + 17.0).collect();
        let (a, b) = (whiten(&x, &mask, Whitening::default()), whiten(&moved, &mask, Whitening::default()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-7));
    }

    #[test]
    #[should_panic(expected = "the lengths cover the tokens")]
    fn lengths_that_miss_a_token_are_a_bug() {
        let _ = split(&[1, 2, 3], &[2]);
    }
}
