//! Many small steps down.
//!
//! A candidate that is a little worse than the live version passes: with a few dozen questions a little cannot be told from
//! chance. Ten of them in a row can. So the differences that were measured along the lineage are added up.

/// What one version's trial said about it and its parent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rung {
    /// Mean difference of rewards, this version − its parent.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// Versions back that are added up at most.
pub const RUNGS_MAX: usize = 32;

/// The worst sum in units of its standard error, over all numbers of versions back, the candidate first in `rungs`:
/// `min_k Σ_{i≤k} mean_i / √Σ_{i≤k} error_i²`. 0 with no rung.
#[must_use]
pub fn worst(rungs: &[Rung]) -> f64 {
    let (mut sum, mut variance, mut worst) = (0.0, 0.0, 0.0f64);
    for rung in rungs {
        sum += rung.mean;
        variance += rung.standard_error.powi(2);
        if variance > 0.0 {
            worst = worst.min(sum / variance.sqrt());
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::{Rung, worst};

    #[test]
    fn small_steps_down_add_up_and_a_step_up_pays_for_them() {
        let down = Rung { mean: -0.05, standard_error: 0.05 };
        assert_eq!(worst(&[]), 0.0);
        assert_eq!(worst(&[down]), -1.0);
        assert!((worst(&[down; 9]) + 3.0).abs() < 1e-12);
        let up = Rung { mean: 0.5, standard_error: 0.05 };
        assert!(worst(&[vec![down], vec![up], vec![down; 8]].concat()) >= -1.0, "what came before the step up is past");
        assert_eq!(worst(&[up; 4]), 0.0);
    }
}
