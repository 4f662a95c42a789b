use super::{ApproxKl, PolicyClip, PolicyLoss, PolicyTokens, policy_loss};
use crate::loss::Aggregation;

const CLIP: PolicyClip = PolicyClip { low: 0.2, high: 0.28, dual: Some(3.0) };
const OLD: [f64; 6] = [-1.0, -0.5, -2.0, -3.0, -0.1, -1.2];
const NEW: [f64; 6] = [-0.6, -0.9, -1.95, -3.3, -0.15, 0.9];
const ADVANTAGES: [f64; 6] = [1.1, -0.7, 0.4, 2.0, -1.5, -0.3];

fn loss_of(log_probs: &[f64], weights: &[f64], mask: &[bool]) -> PolicyLoss {
    let coefficients = Aggregation::TokenMean.coefficients(mask, &[2, 4]);
    let tokens =
        PolicyTokens { log_probs, old: &OLD, advantages: &ADVANTAGES, weights, coefficients: &coefficients, mask };
    policy_loss(tokens, CLIP)
}

/// Goal: the gradient is the derivative of the loss. Method: central differences at every token, on both sides of
/// both clips.
#[test]
fn gradient_is_the_finite_difference() {
    let weights = [1.0, 2.0, 0.5, 1.0, 0.0, 1.5];
    let analytic = loss_of(&NEW, &weights, &[true; 6]).grad;
    for t in 0..6 {
        let at = |delta: f64| {
            let mut moved = NEW;
            moved[t] += delta;
            loss_of(&moved, &weights, &[true; 6]).loss
        };
        let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
        assert!((numeric - analytic[t]).abs() < 1e-8, "token {t}: {numeric} against {}", analytic[t]);
    }
}

#[test]
fn at_the_old_policy_it_is_the_plain_policy_gradient() {
    let at_old = loss_of(&OLD, &[1.0; 6], &[true; 6]);
    assert_eq!(at_old.ratios, vec![1.0; 6]);
    assert_eq!((ApproxKl::of(&OLD, &OLD, &[true; 6]), at_old.clip_fraction), (ApproxKl::default(), 0.0));
    for (gradient, advantage) in at_old.grad.iter().zip(ADVANTAGES) {
        assert!((gradient + advantage / 6.0).abs() < 1e-15);
    }
}

#[test]
fn what_the_mask_hides_may_be_anything() {
    let mut log_probs = NEW;
    log_probs[3] = f64::NAN;
    let mask = [true, true, true, false, true, true];
    let got = loss_of(&log_probs, &[1.0; 6], &mask);
    assert!(got.loss.is_finite() && got.grad.iter().all(|g| g.is_finite()));
    assert_eq!((got.grad[3], got.n_tokens), (0.0, 5));
}

#[test]
fn an_enormous_ratio_stays_finite() {
    let far = [900.0, -900.0, -2.0, -3.0, -0.1, 900.0];
    let got = loss_of(&far, &[1.0; 6], &[true; 6]);
    assert!(got.loss.is_finite() && ApproxKl::of(&far, &OLD, &[true; 6]).k3.is_finite());
    assert!(got.grad.iter().all(|g| g.is_finite()));
}
