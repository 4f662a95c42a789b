//! Did the update do what its data say?
//!
//! A step of the policy gradient makes answers that were paid more than the others likelier, and the others less likely. If
//! it clearly did the opposite on the very answers it learnt from, something between the scores and the weights is broken:
//! a sign, an order, a shuffled index. A trial on a few questions would take many rounds to see that; the data of the round
//! show it at once. Neither advantages nor losses are asked, since they may be what is broken: only what each episode was paid
//! and how much likelier the new weights make it.

/// One episode of the round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lesson {
    /// Score and KL penalty together.
    pub paid: f64,
    /// Log-prob of the whole answer before the update, nats.
    pub old_log_prob: f64,
    /// The same after it.
    pub new_log_prob: f64,
}

/// Lessons below which nothing is said.
pub const LESSONS_MIN: usize = 16;

/// Student's t of the covariance between what episodes were paid and how much likelier they became, `Δ_i`, nats:
///
/// `p_i = (paid_i − mean paid) · (Δ_i − mean Δ)`, `t = mean p / (sd p / √n)`.
///
/// Far below 0: the update unlearnt its lessons. `None` with fewer than [`LESSONS_MIN`] episodes, or where nothing differs.
#[must_use]
pub fn alignment(lessons: &[Lesson]) -> Option<f64> {
    let n = lessons.len();
    if n < LESSONS_MIN {
        return None;
    }
    let paid: Vec<f64> = lessons.iter().map(|lesson| lesson.paid).collect();
    let gains: Vec<f64> = lessons.iter().map(|lesson| lesson.new_log_prob - lesson.old_log_prob).collect();
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n as f64;
    let (mean_paid, mean_gain) = (mean(&paid), mean(&gains));
    let products: Vec<f64> = paid.iter().zip(&gains).map(|(r, d)| (r - mean_paid) * (d - mean_gain)).collect();
    let covariance = mean(&products);
    let variance = products.iter().map(|p| (p - covariance).powi(2)).sum::<f64>() / (n - 1) as f64;
    (variance > 0.0).then(|| covariance / (variance / n as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::{Lesson, alignment};

    fn of(paid: &[f64], gains: &[f64]) -> Option<f64> {
        let lesson = |(&paid, &new_log_prob): (&f64, &f64)| Lesson { paid, old_log_prob: 0.0, new_log_prob };
        alignment(&paid.iter().zip(gains).map(lesson).collect::<Vec<_>>())
    }

    #[test]
    fn it_is_positive_when_the_better_become_likelier_and_turns_with_the_sign() {
        let paid: Vec<f64> = (0..32).map(|i| f64::from(i % 7)).collect();
        let gains: Vec<f64> = paid.iter().enumerate().map(|(i, r)| 0.01 * r + 0.005 * ((i * 13 % 5) as f64)).collect();
        let t = of(&paid, &gains).unwrap();
        assert!(t > 3.0, "{t}");
        let flipped: Vec<f64> = gains.iter().map(|d| -d).collect();
        assert_eq!(of(&paid, &flipped), Some(-t));
        let shifted: Vec<f64> = gains.iter().map(|d| d + 100.0).collect();
        assert!((of(&paid, &shifted).unwrap() - t).abs() < 1e-6, "a common change says nothing");
    }

    #[test]
    fn it_says_nothing_where_nothing_can_be_said() {
        assert_eq!(of(&[1.0; 15], &[1.0; 15]), None);
        assert_eq!(of(&[1.0; 20], &[0.5; 20]), None);
    }
}
