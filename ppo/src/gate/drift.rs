//! Many small steps down.
//!
//! A candidate that is a little worse than the live version passes: with a few dozen questions a little cannot be told from
//! chance. Ten of them in a row can. So the differences that were measured along the lineage are added up: those that one
//! judge found, since two reward models have two scales.

/// What one version's trial said about it and its parent.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung {
    /// The reward version that judged both.
    pub judge: String,
    /// Mean difference of rewards, this version − its parent.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// Versions back that are added up at most.
pub const RUNGS_MAX: usize = 32;

/// The worst sum in units of its standard error, over all numbers of versions back, the candidate first in `rungs`:
/// `min_k Σ_{i≤k} mean_i / √Σ_{i≤k} error_i²`, i over the rungs that the candidate's judge found. 0 with no rung.
#[must_use]
pub fn worst(rungs: &[Rung]) -> f64 {
    let (mut sum, mut variance, mut worst) = (0.0, 0.0, 0.0f64);
    let is_of_one_judge = |rung: &&Rung| rungs.first().is_some_and(|first| rung.judge == first.judge);
    for rung in rungs.iter().filter(is_of_one_judge) {
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

    fn rung(mean: f64, judge: &str) -> Rung {
        Rung { judge: judge.to_owned(), mean, standard_error: 0.05 }
    }

    #[test]
    fn small_steps_down_add_up_and_a_step_up_pays_for_them() {
        let down = rung(-0.05, "model@a");
        assert_eq!(worst(&[]), 0.0);
        assert_eq!(worst(std::slice::from_ref(&down)), -1.0);
        assert!((worst(&vec![down.clone(); 9]) + 3.0).abs() < 1e-12);
        let up = rung(0.5, "model@a");
        let both = [vec![down.clone()], vec![up.clone()], vec![down; 8]].concat();
        assert!(worst(&both) >= -1.0, "what came before the step up is past");
        assert_eq!(worst(&vec![up; 4]), 0.0);
    }

    #[test]
    fn what_another_judge_found_does_not_count() {
        let (down, foreign) = (rung(-0.05, "model@b"), rung(-5.0, "model@a"));
        let mixed = [vec![down.clone()], vec![foreign; 8], vec![down.clone(); 3]].concat();
        assert_eq!(worst(&mixed), worst(&vec![down; 4]));
    }
}
