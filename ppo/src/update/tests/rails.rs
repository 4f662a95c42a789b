use std::ops::ControlFlow;

use policy::{PolicyVersion, TokenId};

use super::{Fate, LINEAGE, Round, RoundOutcome, run};
use crate::{
    guard::{Action, Guard},
    rollout_log::DropReason,
    stats::named,
    test_world::{World, bytes_of, share_of},
};

/// Runs a round that a guard forbids to teach anything.
fn assert_forbids(world: &mut World, rollouts: &[reward::ScoredRollout], guard: Guard) -> RoundOutcome {
    let before = (bytes_of(world.models.policy.parameters()), bytes_of(world.models.value.parameters()));
    let outcome = run(world, rollouts, 0);
    assert_eq!(outcome.stats.trips.count(guard), 1, "{:?}", outcome.stats.trips);
    assert!(outcome.is_skipped() && !outcome.has_new_policy());
    assert_eq!(bytes_of(world.models.policy.parameters()), before.0);
    assert_eq!(bytes_of(world.models.value.parameters()), before.1);
    assert_eq!(named(&outcome.stats)[&format!("guard/{}", guard.as_str())], 1.0);
    let pauses = guard.action() == Action::Pause;
    assert_eq!(outcome.stats.trips.pausing(), pauses.then_some(guard));
    let reason = if pauses { DropReason::Guard } else { DropReason::OffPolicy };
    assert!(outcome.fates.iter().all(|fate| *fate == Fate::Dropped(reason)), "{:?}", outcome.fates);
    outcome
}

#[test]
fn a_few_tokens_that_carry_the_round_stop_it() {
    let mut world = World::new(41);
    (world.config.importance, world.config.is_cap) = ("token_truncate".to_string(), 1000.0);
    let mut rollouts = world.rollouts(16, share_of(TokenId(3)));
    let stranger = rollouts.pop().unwrap();
    rollouts.push(World::redrawn(stranger, |token| token.behavior.0 -= 4.0));
    assert_forbids(&mut world, &rollouts, Guard::Ess);
    world.config.ess_min = 0.0;
    assert!(run(&mut world, &rollouts, 0).has_new_policy(), "the floor is a knob");
}

/// Goal: one answer does not speak for a round whose others were filtered. Method: all but one drawn by somebody else, whose own
/// weights are even; then all of them.
#[test]
fn a_round_of_which_little_is_left_makes_no_step() {
    for n_left in [1, 0] {
        let mut world = World::new(51);
        let rollouts = world.rollouts(16, share_of(TokenId(3)));
        let redrawn = |(i, rollout)| match i < n_left {
            true => rollout,
            false => World::redrawn(rollout, |token| token.behavior.0 -= 1.0),
        };
        let rollouts: Vec<_> = rollouts.into_iter().enumerate().map(redrawn).collect();
        let stats = assert_forbids(&mut world, &rollouts, Guard::Ess).stats;
        let (filtered, ess) = (stats.filtered_fraction.unwrap(), stats.ess.unwrap());
        assert!(filtered > 0.5 && ess <= 1.0 - filtered + 1e-6, "{stats:?}");
    }
}

/// Goal: a filter that takes a quarter does not stop a round. Method: as above.
#[test]
fn a_round_of_which_most_is_left_goes_on() {
    let mut world = World::new(52);
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    let redrawn = |(i, rollout)| match i % 4 {
        0 => World::redrawn(rollout, |token| token.behavior.0 -= 1.0),
        _ => rollout,
    };
    let rollouts: Vec<_> = rollouts.into_iter().enumerate().map(redrawn).collect();
    let outcome = run(&mut world, &rollouts, 0);
    assert!(outcome.has_new_policy() && outcome.stats.filtered_fraction > Some(0.1), "{:?}", outcome.stats.trips);
}

/// Goal: a round whose steps are left out one after the other leaves nothing of the policy behind. Method: a first step, after which
/// every ratio is far beyond what was usual so far: three more minibatches, and two.
#[test]
fn steps_left_out_in_a_row_take_the_round_back() {
    for (n_rollouts, is_taken_back) in [(32, true), (24, false)] {
        let mut world = World::new(58);
        (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
        (world.config.stop_kl, world.config.skip_kl, world.config.ratio_spike) = (0.0, 0.0, 1.01);
        (0..8).for_each(|_| world.models.control.ratio_maxima.push(1.0));
        let rollouts = world.rollouts(n_rollouts, share_of(TokenId(3)));
        let before = bytes_of(world.models.policy.parameters());
        let outcome = run(&mut world, &rollouts, 0);
        let stats = &outcome.stats;
        assert_eq!(stats.trips.count(Guard::RatioSpike), n_rollouts as u64 / 8 - 1, "{:?}", stats.trips);
        assert_eq!((stats.ran_away, stats.trips.count(Guard::SkippedSteps)), (is_taken_back, u64::from(is_taken_back)));
        assert_eq!((outcome.has_new_policy(), outcome.is_skipped()), (!is_taken_back, is_taken_back));
        assert_eq!(bytes_of(world.models.policy.parameters()) == before, is_taken_back);
        assert_eq!(world.models.policy_optimizer.state().step, u64::from(!is_taken_back));
        let fate = if is_taken_back { Fate::Dropped(DropReason::UpdateFailed) } else { Fate::Trained };
        assert!(outcome.fates.iter().all(|of_it| *of_it == fate), "{:?}", outcome.fates);
    }
}

/// Goal: with "bypass" the guards still measure what the round did, not how stale its rollouts are. Method: rollouts of the first
/// version, learnt from by a policy that has gone further since than one round may; every step is made.
#[test]
fn stale_rollouts_are_no_distance_that_a_bypass_round_has_made() {
    let mut world = World::new(53);
    let stale = world.rollouts(32, share_of(TokenId(3)));
    (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
    (world.config.stop_kl, world.config.skip_kl) = (0.0, 0.0);
    for update in 0..8 {
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        run(&mut world, &rollouts, update);
    }
    let knobs = config::Config::default().ppo;
    (world.config.stop_kl, world.config.skip_kl) = (knobs.stop_kl, knobs.skip_kl);
    (world.config.importance, world.config.policy_learning_rate) = ("bypass".to_string(), 1e-5);
    let round = Round { config: &world.config, update: 8, lineage: &[PolicyVersion(8), LINEAGE[0]], pretraining: &[] };
    let outcome = round.run(&mut world.models, &stale, &mut || ControlFlow::Continue(())).unwrap();
    let stats = &outcome.stats;
    assert!(
        stats.behavior_kl_k3 > Some(knobs.stop_kl),
        "it is further than one round may go: {:?}",
        stats.behavior_kl_k3
    );
    assert_eq!((stats.n_policy_steps, stats.stopped, stats.ran_away), (4, false, false), "{:?}", stats.trips);
    assert!(stats.policy_approx_kl_k3 < 1e-3, "{}", stats.policy_approx_kl_k3);
    assert!(outcome.fates.iter().all(|fate| *fate == Fate::Trained) && !outcome.is_skipped());
}

#[test]
fn an_engine_that_computes_something_else_stops_learning() {
    let mut world = World::new(42);
    let rollouts = world.rollouts(8, share_of(TokenId(3)));
    // Well inside what the importance weights forgive.
    let rollouts: Vec<_> = rollouts.into_iter().map(|r| World::redrawn(r, |token| token.behavior.0 -= 0.05)).collect();
    world.config.parity_gap_max = 0.02;
    assert_forbids(&mut world, &rollouts, Guard::Parity);
    world.config.parity_gap_max = 0.1;
    assert!(run(&mut world, &rollouts, 0).has_new_policy());
}

#[test]
fn a_policy_that_has_gone_too_far_stops_learning() {
    let mut world = World::new(43);
    (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
    (world.config.stop_kl, world.config.skip_kl) = (1.0, 10.0);
    for update in 0..4 {
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        run(&mut world, &rollouts, update);
    }
    world.config.kl_budget = 0.01;
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    let outcome = assert_forbids(&mut world, &rollouts, Guard::KlBudget);
    assert!(outcome.stats.objective_kl > 0.01);
}

#[test]
fn a_step_far_beyond_the_usual_is_not_made() {
    for guard in [Guard::GradientSpike, Guard::RatioSpike] {
        let mut world = World::new(44);
        world.config.minibatch = 8;
        let usual = |world: &mut World, value: f64| {
            let control = &mut world.models.control;
            let memory = match guard {
                Guard::GradientSpike => &mut control.policy_grad_norms,
                _ => &mut control.ratio_maxima,
            };
            (0..8).for_each(|_| memory.push(value));
        };
        usual(&mut world, 1e-9);
        let before = bytes_of(world.models.policy.parameters());
        let rollouts = world.rollouts(8, share_of(TokenId(3)));
        let outcome = run(&mut world, &rollouts, 0);
        assert_eq!((outcome.stats.trips.count(guard), outcome.stats.n_skipped_steps), (1, 1), "{guard:?}");
        assert!(outcome.is_skipped());
        assert_eq!(bytes_of(world.models.policy.parameters()), before);
        usual(&mut world, 1.0);
        usual(&mut world, 1.0);
        assert!(run(&mut world, &rollouts, 0).has_new_policy(), "the memory moves on");
    }
}

/// Goal: a step that the value model left out while it warms up does not make the round a refused one; a round that left all of
/// them out is. Method: norms that are usual so far and far below the real ones, until half of the memory is new.
#[test]
fn a_warm_up_that_left_a_step_out_is_not_refused() {
    for (minibatch, is_refused) in [(2, false), (8, true)] {
        let mut world = World::new(50);
        (world.config.value_warmup_updates, world.config.minibatch) = (2, minibatch);
        (0..8).for_each(|_| world.models.control.value_grad_norms.push(1e-9));
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        let outcome = run(&mut world, &rollouts, 0);
        let stats = &outcome.stats;
        assert!(stats.is_value_warmup && stats.trips.count(Guard::GradientSpike) > 0, "{:?}", stats.trips);
        assert_eq!((stats.n_value_steps == 0, outcome.is_skipped()), (is_refused, is_refused), "{:?}", stats.trips);
    }
}

/// Goal: scores that rise where it trains and fall where it does not pause learning. Method: fifteen rounds of such a
/// history, and a sixteenth that is really run with a held-out share.
#[test]
fn a_reward_that_is_gamed_stops_learning() {
    let mut world = World::new(45);
    world.config.held_out_share = 0.5;
    for i in 0..15 {
        let (training, held_out) = if i < 8 { (-1.0, 1.0) } else { (0.1, 0.1) };
        world.models.control.training_scores.push(training);
        world.models.control.held_out_scores.push(held_out);
    }
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    let before = bytes_of(world.models.policy.parameters());
    let outcome = run(&mut world, &rollouts, 0);
    let dropped = outcome.n_dropped();
    let (n_held_out, n_guarded) = (dropped[&DropReason::HeldOut], dropped[&DropReason::Guard]);
    assert!(n_held_out > 0 && n_guarded > 0 && n_held_out + n_guarded == 32);
    assert!(outcome.stats.held_out_score.is_some());
    assert_eq!(outcome.stats.trips.pausing(), Some(Guard::HeldOut));
    assert_eq!(bytes_of(world.models.policy.parameters()), before);
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    assert!(run(&mut world, &rollouts, 1).has_new_policy(), "whoever resumes begins anew");
}

/// One weight that is no number makes every pass so: no rollout is left, and that is not the rollouts' fault.
#[test]
fn a_broken_model_is_not_taken_for_broken_rollouts() {
    let mut world = World::new(47);
    let rollouts = world.rollouts(8, share_of(TokenId(3)));
    let (_, head) = world.models.value.parameters().iter().find(|(name, _)| name.contains("head")).unwrap();
    head.set(&head.affine(f64::NAN, 0.0).unwrap()).unwrap();
    let outcome = run(&mut world, &rollouts, 0);
    assert!(outcome.fates.iter().all(|fate| *fate == Fate::Dropped(DropReason::NonFinite)));
    assert_eq!((outcome.stats.trips.count(Guard::NonFinite), outcome.is_skipped()), (1, true));
}

/// Goal: 0 is off, and nothing else. Method: steps that go far and have large gradients, every bit against those of limits that
/// nothing reaches.
#[test]
fn a_round_without_bounds_makes_every_step_whole() {
    let weights = |(stop_kl, skip_kl, max_grad_norm): (f64, f64, f64)| {
        let mut world = World::new(48);
        (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
        (world.config.stop_kl, world.config.skip_kl, world.config.max_grad_norm) = (stop_kl, skip_kl, max_grad_norm);
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        let before = bytes_of(world.models.policy.parameters());
        let outcome = run(&mut world, &rollouts, 0);
        assert_eq!((outcome.stats.n_policy_steps, outcome.stats.n_value_steps), (4, 4), "{:?}", outcome.stats.trips);
        assert!(outcome.stats.trips.is_empty() && outcome.stats.policy_approx_kl_k3 > 0.0);
        let after = [world.models.policy.parameters(), world.models.value.parameters()].map(bytes_of);
        assert_ne!(after[0], before);
        after
    };
    assert_eq!(weights((0.0, 0.0, 0.0)), weights((1e9, 1e9, 1e9)));
}

#[test]
fn a_healthy_round_trips_nothing() {
    let mut world = World::new(46);
    (world.config.parity_gap_max, world.config.kl_budget) = (0.02, 100.0);
    for update in 0..6 {
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        let outcome = run(&mut world, &rollouts, update);
        assert!(outcome.stats.trips.is_empty() && outcome.has_new_policy(), "{:?}", outcome.stats.trips);
    }
    assert_eq!(world.models.control.policy_grad_norms.len(), 24);
}
