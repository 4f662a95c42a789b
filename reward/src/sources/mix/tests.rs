//! Every source, its waits and its substitutes.

use config::Config;

use super::*;
use crate::sources::feedback::Label;

const UP: Opinion = Opinion { score: None, label: Some(Label::Up) };
const EARLY: u64 = 1_000;
const LATE: u64 = 61_000;

fn rules(change: impl FnOnce(&mut Reward)) -> Rules {
    let mut reward = Config::default().reward;
    reward.feedback_wait_s = 60;
    change(&mut reward);
    Rules::new(&reward)
}

fn mix(model: f64, remote: f64, feedback: f64, fallback: &str) -> Rules {
    rules(|reward| {
        reward.source = "mix".to_owned();
        (reward.mix_model, reward.mix_remote, reward.mix_feedback) = (model, remote, feedback);
        reward.feedback_fallback = fallback.to_owned();
    })
}

fn feedback(fallback: &str) -> Rules {
    rules(|reward| {
        reward.source = "feedback".to_owned();
        reward.feedback_fallback = fallback.to_owned();
    })
}

/// Goal: the model inside a score's version is found wherever it stands. Method: names that formulas give themselves.
#[test]
fn a_version_names_its_model() {
    let name = |formula: Formula| formula.name("model@ab/min");
    let said = Some((1.0, Score(0.5)));
    for formula in [
        Formula::MODEL,
        Formula { model: -2.5, ..Formula::MODEL },
        Formula { model: 0.5, remote: 1.0, feedback: said },
        Formula { feedback: said, ..Formula::MODEL },
    ] {
        assert_eq!(model_of(&name(formula)), Some("model@ab/min"), "{formula:?}");
    }
    for formula in [Formula::REMOTE, Formula { remote: 2.0, feedback: said, ..Formula::default() }] {
        assert_eq!(model_of(&name(formula)), None, "{formula:?}");
    }
}

#[test]
fn machine_sources_judge_at_once() {
    let model = rules(|_| ());
    assert_eq!(model.ruling(&[UP], 0, 0), Ruling::Judge(Formula::MODEL));
    assert!(model.needs_model() && !model.needs_remote() && !model.listens());
    let remote = rules(|reward| {
        reward.source = "remote".to_owned();
        reward.feedback_fallback = "drop".to_owned();
    });
    assert_eq!(remote.ruling(&[], 0, 0), Ruling::Judge(Formula::REMOTE));
    assert!(!remote.needs_model() && remote.needs_remote());
    assert_eq!(remote.for_text(), Formula::REMOTE);
}

#[test]
fn feedback_waits_and_then_falls_back() {
    let rules = feedback("model");
    assert_eq!(rules.ruling(&[], 0, EARLY), Ruling::Wait { left_ms: 59_000 });
    assert_eq!(rules.ruling(&[], 0, LATE), Ruling::Judge(Formula::MODEL));
    let heard = Formula { feedback: Some((1.0, Score(1.0))), ..Formula::default() };
    assert_eq!(rules.ruling(&[UP], 0, EARLY), Ruling::Judge(heard));
    assert_eq!(rules.ruling(&[UP], 0, LATE), Ruling::Judge(heard));
    assert_eq!(feedback("remote").ruling(&[], 0, LATE), Ruling::Judge(Formula::REMOTE));
    assert_eq!(feedback("drop").ruling(&[], 0, LATE), Ruling::Drop);
    assert!(feedback("remote").needs_remote() && !feedback("drop").needs_model());
    assert_eq!(feedback("drop").for_text(), Formula::MODEL);
}

/// Goal: a missing part never makes a score smaller just by being missing. Method: the weights of the formula that judges
/// after the wait add up to the configured ones.
#[test]
fn a_mix_replaces_missing_feedback_at_its_own_weight() {
    let rules = mix(1.0, 0.5, 2.0, "remote");
    assert_eq!(rules.ruling(&[], 0, EARLY), Ruling::Wait { left_ms: 59_000 });
    let after = Formula { model: 1.0, remote: 2.5, feedback: None };
    assert_eq!(rules.ruling(&[], 0, LATE), Ruling::Judge(after));
    assert_eq!(rules.for_text(), after);
    let heard = Formula { model: 1.0, remote: 0.5, feedback: Some((2.0, Score(1.0))) };
    assert_eq!(rules.ruling(&[UP], 0, EARLY), Ruling::Judge(heard));
    assert_eq!(mix(1.0, 0.0, 1.0, "drop").ruling(&[], 0, LATE), Ruling::Drop);
    assert!(!mix(1.0, 0.5, 0.0, "drop").listens(), "weight 0 is not asked, so nobody waits for it");
    assert!(!mix(0.0, 1.0, 0.0, "model").needs_model());
}

#[test]
fn the_sum_is_weighted_and_blind_to_what_was_not_asked() {
    let all = Formula { model: 0.5, remote: -2.0, feedback: Some((3.0, Score(1.0))) };
    assert_eq!(all.sum(4.0, 0.25), 2.0 - 0.5 + 3.0);
    assert_eq!(Formula::MODEL.sum(1.5, f64::NAN), 1.5);
    assert!(Formula::MODEL.sum(f64::NAN, 0.0).is_nan());
}

#[test]
fn a_score_names_its_judges() {
    assert_eq!(Formula::MODEL.name("model@ab"), "model@ab");
    assert_eq!(Formula::REMOTE.name("model@ab"), "remote");
    let all = Formula { model: 0.5, remote: 0.0, feedback: Some((1.0, Score(-1.0))) };
    assert_eq!(all.name("model@ab"), "0.5*model@ab+1*feedback");
}
