use policy::TokenId;

use super::{experience, run};
use crate::{
    gate::{LESSONS_MIN, alignment},
    guard::Guard,
    stats::named,
    test_world::{World, bytes_of, share_of},
};

/// Goal: the last step is watched like the others. Method: a round of one step, before which no policy has gone anywhere, at a rate
/// that breaks it and at one that does not; and what it says of its way against a pass of its own.
#[test]
fn a_last_step_that_goes_too_far_takes_the_round_back() {
    for (rate, runs_away) in [(0.5, true), (1e-3, false)] {
        let mut world = World::new(49);
        (world.config.policy_learning_rate, world.config.warmup_updates) = (rate, 0);
        (world.config.minibatch, world.config.epochs, world.config.max_grad_norm) = (32, 1, 1e6);
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        let before = bytes_of(world.models.policy.parameters());
        let old = experience(&world, &rollouts).old_or_drawn;
        let outcome = run(&mut world, &rollouts, 0);
        let stats = &outcome.stats;
        assert!(
            stats.policy_approx_kl_k3 < 1e-9,
            "nothing was to be seen before the step: {}",
            stats.policy_approx_kl_k3
        );
        assert_eq!((stats.ran_away, outcome.has_new_policy()), (runs_away, !runs_away), "{}", stats.policy_final_kl_k3);
        assert_eq!(stats.trips.count(Guard::SkipKl), u64::from(runs_away));
        assert_eq!(bytes_of(world.models.policy.parameters()) == before, runs_away);
        assert_eq!(stats.policy_final_kl_k3 > world.config.skip_kl, runs_away);
        assert_eq!(named(stats)["policy/approxkl_k3_final"], stats.policy_final_kl_k3);
        if !runs_away {
            let new = experience(&world, &rollouts).old_or_drawn;
            let k3 = old.iter().zip(&new).map(|(old, new)| (new - old).exp() - 1.0 - (new - old));
            let mean = k3.sum::<f64>() / old.len() as f64;
            assert!(mean > 0.0 && (mean - stats.policy_final_kl_k3).abs() < 1e-6 * mean.max(1e-3), "{mean}");
            assert_eq!(outcome.lessons.len(), 32);
        }
    }
}

/// Goal: the gate judges how far the candidate is from version 0, and not how far its parent was. Method: a long step from version
/// 0 itself, where the round's own number knows no distance; what is said of it against the exact divergence in the states of the
/// same answers, and a second round's against the first one's end.
#[test]
fn the_candidates_distance_from_version_0_is_known() {
    let mut world = World::new(51);
    (world.config.policy_learning_rate, world.config.warmup_updates, world.config.skip_kl) = (2e-2, 0, 0.0);
    world.config.minibatch = 16;
    let rollouts = world.rollouts(64, share_of(TokenId(3)));
    let first = run(&mut world, &rollouts, 0).stats;
    assert!(first.objective_kl.abs() < 1e-5, "the round began at version 0: {}", first.objective_kl);
    let rows =
        |lm: &policy::causal_lm::CausalLm, tokens: &[TokenId]| lm.logits(tokens).unwrap().to_vec2::<f32>().unwrap();
    let softmax = |row: &[f32]| {
        let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
        row.iter().map(|l| f64::from(*l).exp() / sum).collect::<Vec<f64>>()
    };
    let mut exact = 0.0;
    for scored in &rollouts {
        let rollout = scored.rollout();
        let tokens: Vec<TokenId> =
            rollout.prompt.iter().copied().chain(rollout.response.iter().map(|t| t.id)).collect();
        let (now, reference) = (rows(&world.models.policy, &tokens), rows(&world.models.reference, &tokens));
        for t in rollout.prompt.len() - 1..tokens.len() - 1 {
            let pairs = softmax(&now[t]).into_iter().zip(softmax(&reference[t]));
            exact += pairs.map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        }
    }
    exact /= rollouts.len() as f64;
    let told = first.policy_final_kl_to_reference;
    assert!(exact > 0.05 && (told / exact - 1.0).abs() < 0.25, "{told}, exactly {exact}");
    assert!(!named(&first).values().any(|number| *number == told), "records of older updates have no such number");
    let rollouts = world.rollouts(64, share_of(TokenId(3)));
    let second = run(&mut world, &rollouts, 1).stats;
    assert!((second.objective_kl / told - 1.0).abs() < 0.5, "{}, told {told}", second.objective_kl);
}

/// Goal: long text does not keep the gate from looking at what was learnt. Method: prompts so long that sixteen episodes are more
/// than is read of short ones.
#[test]
fn as_many_lessons_as_the_gate_needs_are_read_however_long_they_are() {
    let mut world = World::new(52);
    // The prompts are not those that the answers were drawn after.
    (world.config.importance, world.config.skip_kl) = ("off".to_string(), 0.0);
    let lengthened = |scored: reward::ScoredRollout| {
        let (mut rollout, judgement) = scored.into_parts();
        rollout.prompt = (0..2060).map(|i| TokenId(1 + i % 10)).collect();
        reward::ScoredRollout::new(rollout, judgement).unwrap()
    };
    let rollouts: Vec<_> = world.rollouts(18, share_of(TokenId(3))).into_iter().map(lengthened).collect();
    let outcome = run(&mut world, &rollouts, 0);
    assert!(outcome.has_new_policy(), "{:?}", outcome.stats.trips);
    assert_eq!(outcome.lessons.len(), LESSONS_MIN);
    assert!(alignment(&outcome.lessons).is_some());
}

/// Goal: what nobody asks for costs no pass, and is absent. Method: the number of a round with each of those who ask, and with none.
#[test]
fn a_last_step_that_nobody_watches_is_not_measured() {
    let is_known = |gate: &str, skip_kl: f64, kl_budget: f64| {
        let mut world = World::new(53);
        (world.config.gate, world.config.skip_kl, world.config.kl_budget) = (gate.to_string(), skip_kl, kl_budget);
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        let outcome = run(&mut world, &rollouts, 0);
        assert!(outcome.has_new_policy(), "{:?}", outcome.stats.trips);
        assert_eq!(outcome.lessons.is_empty(), outcome.stats.policy_final_kl_k3.is_nan());
        named(&outcome.stats).contains_key("policy/approxkl_k3_final")
    };
    let asked = [("strict", 0.0, 0.0), ("observe", 0.0, 0.0), ("off", 1.0, 0.0), ("off", 0.0, 100.0)];
    assert!(asked.into_iter().all(|(gate, skip_kl, kl_budget)| is_known(gate, skip_kl, kl_budget)));
    assert!(!is_known("off", 0.0, 0.0));
}
