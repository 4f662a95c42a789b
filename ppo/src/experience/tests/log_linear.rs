use std::ops::ControlFlow;

use policy::TokenId;

use super::{episode, limits, rollout};
use crate::{
    experience::{Experience, Passes, Proximal, admit},
    off_policy::ImportanceMode,
    test_world::{World, share_of},
};

fn log_linear(change: impl FnOnce(&mut config::Ppo)) -> config::Ppo {
    let mut config = config::Config::default().ppo;
    (config.proximal, config.importance) = ("log_linear".to_string(), "token_truncate".to_string());
    (config.lambda, config.value_clip) = (1.0, 0.0);
    change(&mut config);
    config
}

/// Goal: what has to be known before the steps is taken from the versions that drew, without a pass of the policy. Method: by hand, an
/// answer of two tokens, the second of them from a truncated draw; β is 0.1.
#[test]
fn the_penalty_is_paid_from_what_drew_the_tokens() {
    let mut drawn = episode(0, 2, 2.0, true);
    (drawn.behavior, drawn.log_kept_mass) = (vec![-1.0, -0.4], vec![0.0, -0.1]);
    let passes = Passes { reference: vec![-2.0, -1.5], values: vec![0.0; 2], last_values: vec![0.0], policy: None };
    let got = Experience::from_passes(vec![drawn], passes, &log_linear(|_| ()), 0.1);
    let close = |got: &[f64], expected: [f64; 2]| got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(close(&got.old_or_drawn, [-1.0, -0.5]), "with the mass that truncation kept: {:?}", got.old_or_drawn);
    assert!(close(&got.rewards, [-0.1, 1.9]), "{:?}", got.rewards);
    assert!((got.paid(0) - 1.8).abs() < 1e-12);
    assert_eq!(got.proximal, Proximal::LogLinear(ImportanceMode::TokenTruncate { cap: 2.0 }));
    assert_eq!((got.importance(), got.engine_gap(), got.is_kept(0)), (None, None, true));
}

/// Goal: the pass is spared, and nothing else. Method: the passes of the same episodes with either word.
#[test]
fn the_policy_is_not_run_before_the_steps() {
    let mut world = World::new(71);
    let rollouts = world.rollouts(12, share_of(TokenId(3)));
    let passes = |config: &config::Ppo| {
        let version = super::limits();
        let lineage = [policy::PolicyVersion(0)];
        let episodes = admit(&rollouts, super::Limits { lineage: &lineage, ..version }).episodes;
        assert!(!episodes.is_empty());
        Passes::run(&episodes, &[], &world.models, config, &mut || ControlFlow::Continue(())).unwrap().0
    };
    let (forward, spared) = (passes(&config::Config::default().ppo), passes(&log_linear(|_| ())));
    assert!(forward.policy.is_some());
    assert_eq!(spared, Passes { policy: None, ..forward });
}

/// Goal: who is alone does not train here either, and whitening sees who does. Method: two answers to one prompt and one to another, by
/// an estimator that compares.
#[test]
fn a_lone_answer_does_not_train() {
    let scored = rollout(|_| ());
    let mut episodes = admit(&[scored.clone(), scored], limits()).episodes;
    let mut lone = episode(2, 1, 0.0, true);
    lone.sequence.tokens[0] = TokenId(9);
    episodes.push(lone);
    let n: usize = episodes.iter().map(super::Episode::n_tokens).sum();
    let passes = Passes { reference: vec![-1.0; n], values: vec![0.0; n], last_values: vec![0.0; 3], policy: None };
    let config = log_linear(|config| config.advantage_estimator = "rloo".to_string());
    let got = Experience::from_passes(episodes, passes, &config, 0.0);
    assert_eq!([0, 1, 2].map(|i| got.is_kept(i)), [true, true, false]);
}
