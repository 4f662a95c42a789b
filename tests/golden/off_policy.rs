//! 09 and 19: data from other policies, and how old it may be.

use policy::PolicyVersion;
use ppo::{
    loss::{Aggregation, PolicyClip, PolicyTokens, policy_loss},
    off_policy::{ImportanceMode, LogLinear, importance_weights},
    staleness::{Admission, staleness as staleness_of},
};

use super::numbers::Case;

pub(super) fn decoupled_ppo(case: &mut Case<'_>) {
    if case.kind == "loglinear_prox" {
        return loglinear(case);
    }
    let (log_probs, old, behavior) = (case.flat("new_logp"), case.flat("prox_logp"), case.flat("behave_logp"));
    let (advantages, mask, lengths) = (case.flat("advantages"), case.mask("mask"), case.lengths("mask"));
    let (floor, cap) = (case.number("floor"), case.number("cap"));
    let mode = match case.word("mode") {
        "none" => ImportanceMode::Off,
        "token_truncate" => ImportanceMode::TokenTruncate { cap },
        "token_mask" => ImportanceMode::TokenMask { floor, cap },
        "seq_truncate" => ImportanceMode::SequenceTruncate { cap },
        "seq_geo_mask_token_truncate" => {
            ImportanceMode::GeometricFilter { floor, cap, token_cap: case.number("token_cap_after_geo_mask") }
        }
        other => panic!("unknown mode {other}"),
    };
    let importance = importance_weights(&old, &behavior, &mask, &lengths, mode);
    let coefficients = Aggregation::TokenMean.coefficients(&mask, &lengths);
    let tokens = PolicyTokens {
        log_probs: &log_probs,
        old: &old,
        advantages: &advantages,
        weights: &importance.weights,
        coefficients: &coefficients,
        mask: &mask,
    };
    let clip = PolicyClip { low: case.number("clip_low"), high: case.number("clip_high"), dual: None };
    let loss = policy_loss(tokens, clip);
    case.expect("weights", &importance.weights);
    case.expect("kept_mask", &importance.kept.iter().map(|k| f64::from(u8::from(*k))).collect::<Vec<f64>>());
    case.expect("loss_token_mean", &[loss.loss]);
    case.expect("grad_new_logp", &loss.grad);
    case.expect("ess_fraction", &[importance.ess_fraction]);
    case.expect("mean_abs_logp_gap", &[importance.mean_abs_gap]);
    case.expect("k1_behave_prox", &[importance.k1]);
    case.expect("k3_behave_prox", &[importance.k3]);
    case.expect("filtered_fraction", &[importance.filtered_fraction]);
}

fn loglinear(case: &mut Case<'_>) {
    let (behavior, current, mask) = (case.flat("behave_logp"), case.flat("new_logp"), case.mask("mask"));
    let proximal = case.whole("v_prox");
    assert_eq!(case.whole("v_new"), proximal + 1, "a round begins at the version before the one that it makes");
    let staleness: Vec<u64> = case.indices("v_behave").iter().map(|drawn_by| proximal - *drawn_by as u64).collect();
    let old = LogLinear { behavior: &behavior, drawn: &behavior, staleness: &staleness }.proximal(&current);
    case.expect(
        "prox_logp",
        &old.iter().zip(&mask).map(|(l, keep)| if *keep { *l } else { 0.0 }).collect::<Vec<f64>>(),
    );
}

pub(super) fn staleness(case: &mut Case<'_>) {
    if case.has("events") {
        return admission(case);
    }
    let trainer = PolicyVersion(case.whole("trainer_version"));
    let bound = case.whole("max_staleness");
    let ages: Vec<u64> = case
        .rows("token_versions")
        .iter()
        .map(|versions| versions.iter().map(|v| PolicyVersion(*v as u64)).collect::<Vec<_>>())
        .map(|versions| staleness_of(trainer, &versions))
        .collect();
    case.expect("staleness", &ages.iter().map(|a| *a as f64).collect::<Vec<f64>>());
    case.expect("accepted", &ages.iter().map(|a| f64::from(u8::from(*a <= bound))).collect::<Vec<f64>>());
}

fn admission(case: &mut Case<'_>) {
    let mut admission = Admission::new(case.whole("eta"), case.whole("batch"), case.whole("max_concurrent"));
    let (mut results, mut capacities) = (Vec::new(), Vec::new());
    for event in case.value("events").as_array().into_iter().flatten().filter_map(|e| e.as_str()) {
        let (done, word) = match event {
            "submit" => (admission.submit(), "refused"),
            "accept" => (admission.accept(), "ignored"),
            "reject" => (admission.reject(), "ignored"),
            "version" => {
                admission.publish();
                (true, "")
            }
            other => panic!("unknown event {other}"),
        };
        results.push(if done { "ok" } else { word });
        capacities.push(admission.capacity() as f64);
    }
    case.expect_words("results", &results);
    case.expect("capacity_after_each", &capacities);
}
