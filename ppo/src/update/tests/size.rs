//! How much of a round must be able to train.

use policy::{FinishReason, TokenId};
use reward::ScoredRollout;

use super::{Fate, run};
use crate::{
    guard::Guard,
    rollout_log::DropReason,
    stats::named,
    test_world::{World, bytes_of, share_of},
};

fn cut_off_by_the_client(scored: ScoredRollout) -> ScoredRollout {
    let (mut rollout, judgement) = scored.into_parts();
    rollout.finish = FinishReason::ClientLimit;
    ScoredRollout::new(rollout, judgement).unwrap()
}

/// Goal: a few rollouts that are left of many do not move the weights, whatever kept the others out. Method: rounds of which all but
/// seven or eight were cut off by the client, and small ones of which all but half; then lone answers beside a group of seven.
#[test]
fn a_round_of_which_few_may_train_makes_no_step() {
    for (n, n_left, may_step) in [(32, 8, true), (32, 7, false), (6, 3, true), (6, 2, false)] {
        let mut world = World::new(54);
        world.config.client_limit = "drop".to_string();
        let rollouts = world.rollouts(n, share_of(TokenId(3)));
        let cut = |(i, rollout)| if i < n_left { rollout } else { cut_off_by_the_client(rollout) };
        let rollouts: Vec<_> = rollouts.into_iter().enumerate().map(cut).collect();
        assert_too_few(&mut world, &rollouts, n_left, may_step);
    }
    for (n_left, may_step) in [(8, true), (7, false)] {
        let mut world = World::new(55);
        world.config.advantage_estimator = "rloo".to_string();
        let mut rollouts = world.groups(1, n_left, share_of(TokenId(3)));
        rollouts.extend(world.groups(20, 1, share_of(TokenId(3))).split_off(10));
        assert_too_few(&mut world, &rollouts, n_left, may_step);
    }
}

/// Runs a round of which the first `n_left` may train.
fn assert_too_few(world: &mut World, rollouts: &[ScoredRollout], n_left: usize, may_step: bool) {
    let before = (bytes_of(world.models.policy.parameters()), bytes_of(world.models.value.parameters()));
    let outcome = run(world, rollouts, 0);
    assert_eq!(outcome.has_new_policy(), may_step, "{:?}", outcome.stats.trips);
    let count = u64::from(!may_step);
    assert_eq!(outcome.stats.trips.count(Guard::EffectiveBatch), count, "{:?}", outcome.stats.trips);
    assert_eq!(named(&outcome.stats)["guard/effective_batch"], count as f64);
    assert!(!outcome.is_skipped(), "the learner is not to blame");
    let fate = if may_step { Fate::Trained } else { Fate::Dropped(DropReason::Guard) };
    let (left, others) = outcome.fates.split_at(n_left);
    assert!(left.iter().all(|of_it| *of_it == fate), "spent, or it would be claimed again for ever: {left:?}");
    assert!(others.iter().all(|of_it| matches!(of_it, Fate::Dropped(why) if *why != DropReason::Guard)), "{others:?}");
    if !may_step {
        let after = (bytes_of(world.models.policy.parameters()), bytes_of(world.models.value.parameters()));
        assert_eq!(after, before);
    }
}

/// What is held out was never meant to train: where a small round holds something out, all of the rest is enough.
#[test]
fn what_is_held_out_is_not_missed() {
    let mut world = World::new(57);
    world.config.held_out_share = 0.5;
    let rollouts = world.rollouts(9, share_of(TokenId(3)));
    let outcome = run(&mut world, &rollouts, 0);
    let n_held_out = outcome.n_dropped()[&DropReason::HeldOut];
    assert!((5..9).contains(&n_held_out), "{n_held_out}");
    assert!(outcome.has_new_policy() && outcome.stats.trips.is_empty(), "{:?}", outcome.stats.trips);
}
