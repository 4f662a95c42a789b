mod ahead;
mod arrival;
mod estimators;
mod head;
mod length;
mod log_linear;
mod lora;
mod optimum;
mod penalty;
mod pretraining;
mod rails;
mod size;

use std::ops::ControlFlow;

use policy::{
    PolicyVersion, TokenId,
    optimizer::{Gradient, Gradients},
};

use super::{Fate, Round, RoundOutcome};
use crate::{
    error::PpoError,
    experience::{Experience, Kept, Limits, admit},
    loss::Aggregation,
    rollout_log::DropReason,
    test_world::{VOCAB, World, bytes_of, share_of},
    update::step::Minibatch,
};

const LINEAGE: [PolicyVersion; 1] = [PolicyVersion(0)];

fn run(world: &mut World, rollouts: &[reward::ScoredRollout], update: u64) -> RoundOutcome {
    let round = Round { config: &world.config, update, lineage: &LINEAGE, pretraining: &world.texts };
    round.run(&mut world.models, rollouts, &mut || ControlFlow::Continue(())).unwrap()
}

fn experience(world: &World, rollouts: &[reward::ScoredRollout]) -> Experience {
    let admitted = admit(
        rollouts,
        Limits { lineage: &LINEAGE, vocab_size: VOCAB, trains_client_limited: false, held_out_share: 0.0 },
    );
    let pace = &mut || ControlFlow::Continue(());
    Experience::collect(admitted.episodes, &[], &world.models, &world.config, 0.05, pace).unwrap().0
}

/// A world some way from its reference, so that ratios, clips and KL are not trivial, and its experience from before.
fn moved() -> (World, Experience) {
    let mut world = World::new(3);
    let rollouts = world.rollouts(12, share_of(TokenId(3)));
    let experience = experience(&world, &rollouts);
    world.config.policy_learning_rate = 3e-3;
    run(&mut world, &rollouts, 0);
    (world, experience)
}

/// Over all parameters.
pub(super) fn largest_difference(a: &Gradients, b: &Gradients) -> f32 {
    let of = |(name, gradient): (&str, &Gradient)| {
        let (a, b) = (gradient.to_vec().unwrap(), b.get(name).unwrap().to_vec().unwrap());
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert_eq!(a.iter().count(), b.iter().count());
    a.iter().map(of).fold(0.0, f32::max)
}

/// Goal: how a minibatch is cut changes nothing. Method: gradients of policy and value model for pieces of one episode, of
/// a few tokens, and of all episodes of uneven lengths.
#[test]
fn gradients_do_not_depend_on_the_micro_batch() {
    let (mut world, experience) = moved();
    let members: Vec<usize> = (0..experience.episodes.len()).collect();
    let gradients = |world: &World| {
        let minibatch = Minibatch::new(&experience, &members, Aggregation::TokenMean);
        let pace = &mut || ControlFlow::Continue(());
        let policy = minibatch
            .policy_gradients(&world.models, &world.config, &Kept::default(), Gradients::new(), pace)
            .unwrap()
            .0;
        let value = minibatch
            .value_gradients(&world.models, &world.config, &Kept::default(), Gradients::new(), pace)
            .unwrap()
            .0;
        [policy, value]
    };
    world.config.micro_batch_tokens = 1 << 20;
    let whole = gradients(&world);
    for tokens in [1, 12, 30] {
        world.config.micro_batch_tokens = tokens;
        for (cut, whole) in gradients(&world).iter().zip(&whole) {
            assert!(largest_difference(cut, whole) < 1e-5, "at micro-batches of {tokens} tokens");
        }
    }
}

/// Goal: a value clip of 0 is none. Method: gradients of values that have moved, at 0, at a clip that none of them reaches, and at
/// one that some do.
#[test]
fn a_value_clip_of_zero_is_plain_regression() {
    let (mut world, experience) = moved();
    let members: Vec<usize> = (0..experience.episodes.len()).collect();
    let minibatch = Minibatch::new(&experience, &members, Aggregation::TokenMean);
    let mut at = |value_clip: f64| {
        world.config.value_clip = value_clip;
        let pace = &mut || ControlFlow::Continue(());
        minibatch.value_gradients(&world.models, &world.config, &Kept::default(), Gradients::new(), pace).unwrap()
    };
    let ((off, tally), (wide, _), (tight, clipped)) = (at(0.0), at(1000.0), at(1e-9));
    assert_eq!((largest_difference(&off, &wide), tally.clip_fraction()), (0.0, 0.0));
    assert!(clipped.clip_fraction() > 0.0 && largest_difference(&off, &tight) > 0.0, "the values have moved");
}

#[test]
fn every_parameter_of_policy_and_value_model_has_a_gradient() {
    let (world, experience) = moved();
    let members: Vec<usize> = (0..experience.episodes.len()).collect();
    let minibatch = Minibatch::new(&experience, &members, Aggregation::TokenMean);
    let pace = &mut || ControlFlow::Continue(());
    let policy =
        minibatch.policy_gradients(&world.models, &world.config, &Kept::default(), Gradients::new(), pace).unwrap().0;
    let value =
        minibatch.value_gradients(&world.models, &world.config, &Kept::default(), Gradients::new(), pace).unwrap().0;
    let parameters = [(world.models.policy.parameters(), policy), (world.models.value.parameters(), value)];
    for (parameters, gradients) in parameters {
        for name in parameters.keys() {
            let gradient = gradients.get(name).unwrap_or_else(|| panic!("{name} has no gradient"));
            let norm: f32 = gradient.to_vec().unwrap().iter().map(|g| g * g).sum();
            assert!(norm > 0.0 && norm.is_finite(), "{name}: {norm}");
        }
    }
}

#[test]
fn a_learning_rate_of_zero_changes_no_bit() {
    let mut world = World::new(4);
    world.config.policy_learning_rate = 0.0;
    world.config.value_learning_rate = 0.0;
    world.config.epochs = 2;
    let rollouts = world.rollouts(8, share_of(TokenId(3)));
    let before = (bytes_of(world.models.policy.parameters()), bytes_of(world.models.value.parameters()));
    let outcome = run(&mut world, &rollouts, 0);
    assert!(outcome.stats.n_policy_steps > 0);
    assert_eq!(bytes_of(world.models.policy.parameters()), before.0);
    assert_eq!(bytes_of(world.models.value.parameters()), before.1);
    let stats = outcome.stats;
    assert!((stats.ratio_mean - 1.0).abs() < 1e-6 && stats.policy_approx_kl_k3.abs() < 1e-9);
    assert!(stats.objective_kl.abs() < 1e-5, "the policy is its reference: {}", stats.objective_kl);
}

/// Goal: the masters are fine enough for the smallest useful step. Method: steps at 1e-6; the weights move although none of
/// the larger ones would, had it but the eight bits of a bf16.
#[test]
fn steps_of_a_millionth_move_the_masters() {
    let mut world = World::new(15);
    (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-6, 0);
    let before = bytes_of(world.models.policy.parameters());
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    run(&mut world, &rollouts, 0);
    let after = bytes_of(world.models.policy.parameters());
    let pairs = before.iter().flat_map(|(name, bits)| bits.iter().zip(&after[name]));
    let moved: Vec<(f32, f32)> =
        pairs.filter(|(a, b)| a != b).map(|(a, b)| (f32::from_bits(*a), f32::from_bits(*b))).collect();
    let n: usize = before.values().map(Vec::len).sum();
    assert!(moved.len() > n / 2, "{} of {n} moved", moved.len());
    // Half the distance of neighbours is 2^-9 of a bf16.
    assert!(moved.iter().filter(|(a, _)| a.abs() > 0.01).all(|(a, b)| (a - b).abs() < a.abs() / 512.0));
}

#[test]
fn the_same_weights_say_the_same_twice() {
    let mut world = World::new(5);
    let rollouts = world.rollouts(8, share_of(TokenId(3)));
    let (first, second) = (experience(&world, &rollouts), experience(&world, &rollouts));
    assert_eq!(first.passes, second.passes);
    for (old, behavior) in first.old_or_drawn.iter().zip(first.episodes.iter().flat_map(|e| &e.behavior)) {
        assert!((old - behavior).abs() < 1e-5, "old {old}, drawn with {behavior}");
    }
}

/// Goal: a sample's temperature divides the logits of all its log-probs. Method: rollouts drawn at 0.6; old must be what
/// they were drawn with, the reference must agree with old at version 0, and a round that changes nothing has ratio 1.
#[test]
fn every_log_prob_is_at_the_temperature_of_its_sample() {
    let mut world = World::new(13);
    (world.temperature, world.config.policy_learning_rate) = (0.6, 0.0);
    let mut rollouts = world.rollouts(6, share_of(TokenId(3)));
    world.temperature = 1.4;
    rollouts.extend(world.rollouts(6, share_of(TokenId(3))));
    let experience = experience(&world, &rollouts);
    let behavior: Vec<f64> = experience.episodes.iter().flat_map(|e| e.behavior.clone()).collect();
    assert!(experience.old_or_drawn.iter().zip(&behavior).all(|(old, behavior)| (old - behavior).abs() < 1e-5));
    assert_eq!(experience.old_or_drawn, experience.passes.reference);
    let raw = rollouts.iter().flat_map(|r| &r.rollout().response).map(|t| f64::from(t.log_prob.0));
    assert!(raw.zip(&behavior).any(|(raw, drawn)| (raw - drawn).abs() > 0.1), "the temperature matters here");
    let stats = run(&mut world, &rollouts, 0).stats;
    assert!((stats.ratio_mean - 1.0).abs() < 1e-6 && (stats.ratio_max - 1.0).abs() < 1e-5);
}

#[test]
fn the_reference_never_moves_and_a_round_repeats_bit_for_bit() {
    let weights = || {
        let mut world = World::new(6);
        let reference = bytes_of(world.models.reference.parameters());
        for update in 0..3 {
            let rollouts = world.rollouts(8, share_of(TokenId(3)));
            run(&mut world, &rollouts, update);
        }
        assert_eq!(bytes_of(world.models.reference.parameters()), reference);
        assert_ne!(bytes_of(world.models.policy.parameters()), reference);
        bytes_of(world.models.policy.parameters())
    };
    assert_eq!(weights(), weights());
}

/// Goal: a record need not hold the machine's load: threads change no bit. Method: two rounds of a model whose matrix
/// products are large enough to be split, on one thread, two and three.
#[test]
fn a_round_gives_the_same_bits_on_any_number_of_threads() {
    let fingerprint = |n_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            let mut world = World::wide(13);
            world.config.micro_batch_tokens = 30;
            for update in 0..2 {
                let rollouts = world.rollouts(8, share_of(TokenId(3)));
                run(&mut world, &rollouts, update);
            }
            crate::state::fingerprint(&world.models, 2).unwrap()
        })
    };
    let one = fingerprint(1);
    assert_eq!([fingerprint(2), fingerprint(3)], [one, one]);
}

#[test]
fn an_interrupted_round_leaves_the_models_as_they_were() {
    let mut world = World::new(7);
    // One episode a piece, two a wave: 24 waves of experience, then 4 of either model's first step; the patience ends in the second.
    world.config.micro_batch_tokens = 1;
    let rollouts = world.rollouts(16, share_of(TokenId(3)));
    let before = (bytes_of(world.models.policy.parameters()), bytes_of(world.models.value.parameters()));
    let round = Round { config: &world.config, update: 0, lineage: &LINEAGE, pretraining: &[] };
    let mut patience = 34;
    let mut pace = || {
        patience -= 1;
        if patience == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let result = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap()
        .install(|| round.run(&mut world.models, &rollouts, &mut || pace()));
    assert!(matches!(result, Err(PpoError::Interrupted)));
    assert_eq!(bytes_of(world.models.policy.parameters()), before.0);
    assert_eq!(bytes_of(world.models.value.parameters()), before.1);
    assert_eq!(world.models.policy_optimizer.state().step, 0);
}

#[test]
fn a_round_that_runs_away_is_taken_back() {
    let mut world = World::new(8);
    world.config.policy_learning_rate = 0.5;
    world.config.warmup_updates = 0;
    world.config.max_grad_norm = 1e6;
    let rollouts = world.rollouts(16, share_of(TokenId(3)));
    let before = bytes_of(world.models.policy.parameters());
    let outcome = run(&mut world, &rollouts, 0);
    assert!(outcome.stats.ran_away && !outcome.has_new_policy());
    assert_eq!(bytes_of(world.models.policy.parameters()), before);
    assert!(outcome.fates.iter().all(|fate| *fate == Fate::Dropped(DropReason::UpdateFailed)));
}

#[test]
fn data_of_another_policy_make_no_step() {
    let mut world = World::new(9);
    // No divergence yet: a controller that heard of this round would let β fall.
    (world.config.kl_adaptive, world.config.kl_horizon) = (true, 100);
    let mut rollouts = world.rollouts(8, share_of(TokenId(3)));
    rollouts = rollouts.into_iter().map(|r| World::redrawn(r, |token| token.behavior.0 -= 1.0)).collect();
    let before = bytes_of(world.models.policy.parameters());
    let outcome = run(&mut world, &rollouts, 0);
    assert!(!outcome.has_new_policy());
    assert_eq!(outcome.stats.filtered_fraction, Some(1.0));
    assert_eq!(outcome.n_dropped()[&DropReason::OffPolicy], 8);
    assert!(outcome.is_skipped(), "and it is told");
    assert_eq!(bytes_of(world.models.policy.parameters()), before);
    assert_eq!(outcome.stats.kl_coef, outcome.stats.kl_coef_next);
}

#[test]
fn a_round_without_rollouts_does_nothing() {
    let mut world = World::new(10);
    let outcome = run(&mut world, &[], 0);
    assert!(outcome.fates.is_empty() && !outcome.has_new_policy());
}

/// What a reward for length looks like in the numbers, before anybody reads an answer.
#[test]
fn a_reward_for_length_shows_and_so_do_two_judges() {
    let mut world = World::new(14);
    let mut rollouts = world.rollouts(16, |response| response.len() as f64);
    let stats = run(&mut world, &rollouts, 0).stats;
    assert!(stats.length_score_correlation > 0.999 && stats.n_reward_versions == 1);
    let (rollout, mut scored) = rollouts.remove(0).into_parts();
    scored.reward_version = "another".to_string();
    rollouts.push(reward::ScoredRollout::new(rollout, scored).unwrap());
    assert_eq!(run(&mut world, &rollouts, 1).stats.n_reward_versions, 2);
}

#[test]
fn the_penalty_follows_the_divergence() {
    let mut world = World::new(11);
    world.config.kl_adaptive = true;
    world.config.kl_target = 6.0;
    world.config.kl_horizon = 100;
    let rollouts = world.rollouts(8, share_of(TokenId(3)));
    let stats = run(&mut world, &rollouts, 0).stats;
    assert!(stats.kl_coef_next < stats.kl_coef, "no divergence yet, so the penalty falls");
    assert_eq!(world.models.kl_coef, stats.kl_coef_next);
}

/// Goal: the whole machine learns what it is paid for, whatever that is. Method: a tiny transformer, a reward for the
/// share of one token, and the same reward with the other sign.
#[test]
fn a_planted_reward_is_learnt_and_its_opposite_unlearnt() {
    for (sign, target) in [(1.0, TokenId(3)), (-1.0, TokenId(5))] {
        let mut world = World::new(12);
        world.config.kl_coef = 0.01;
        world.config.policy_learning_rate = 1e-2;
        world.config.value_learning_rate = 1e-2;
        world.config.warmup_updates = 0;
        world.config.stop_kl = 1.0;
        world.config.skip_kl = 10.0;
        world.models.kl_coef = 0.01;
        let judge = share_of(target);
        let paid = |response: &[TokenId]| sign * judge(response);
        let mut means = Vec::new();
        for update in 0..30 {
            let rollouts = world.rollouts(32, paid);
            means.push(run(&mut world, &rollouts, update).stats.objective_scores);
        }
        let (first, last) = (means[0], means[29]);
        assert!(last > first + 0.05, "sign {sign}: {means:?}");
        if sign > 0.0 {
            assert!(last > 0.5, "the token was rare at first: {means:?}");
        }
    }
}
