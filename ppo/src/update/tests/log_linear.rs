//! Rounds that do not run the policy before their steps.

mod unmeasured;

use std::ops::ControlFlow;

use policy::{
    PolicyVersion, TokenId,
    optimizer::Gradients,
    sequence_batch::{Sequence, SequenceBatch},
};
use reward::ScoredRollout;

use super::{Fate, Kept, Limits, Minibatch, Round, RoundOutcome, admit, largest_difference, run};
use crate::{
    experience::{Experience, PolicyPass, Proximal},
    gate::alignment,
    guard::Guard,
    loss::{Aggregation, bounded_k3},
    off_policy::LogLinear,
    rollout_log::DropReason,
    stats::named,
    test_world::{VOCAB, World, bytes_of, share_of},
    update::{minibatches, permutation},
};

/// A lineage of two publications: rollouts of version 0 are one behind.
const ONE_BEHIND: [PolicyVersion; 2] = [PolicyVersion(1), PolicyVersion(0)];

fn log_linear(config: &mut config::Ppo) {
    (config.proximal, config.importance) = ("log_linear".to_string(), "token_truncate".to_string());
}

fn world(seed: u64) -> World {
    World::with(seed, log_linear)
}

/// A policy that has made a round's steps since these rollouts were drawn.
fn a_version_later(seed: u64) -> (World, Vec<ScoredRollout>) {
    let mut world = world(seed);
    let stale = world.rollouts(32, share_of(TokenId(3)));
    (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
    (world.config.stop_kl, world.config.skip_kl) = (0.0, 0.0);
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    assert_eq!(run(&mut world, &rollouts, 0).stats.n_policy_steps, 4);
    (world, stale)
}

/// A round of rollouts that are one version behind.
fn run_behind(world: &mut World, rollouts: &[ScoredRollout]) -> RoundOutcome {
    let round = Round { config: &world.config, update: 1, lineage: &ONE_BEHIND, pretraining: &[] };
    round.run(&mut world.models, rollouts, &mut || ControlFlow::Continue(())).unwrap()
}

fn experience_behind(world: &World, rollouts: &[ScoredRollout]) -> Experience {
    let limits = Limits { lineage: &ONE_BEHIND, vocab_size: VOCAB, trains_client_limited: false, held_out_share: 0.0 };
    let pace = &mut || ControlFlow::Continue(());
    Experience::collect(admit(rollouts, limits).episodes, &[], &world.models, &world.config, 0.05, pace).unwrap().0
}

/// What the trainer says of every token of these rollouts now, nats.
fn said_now(world: &World, rollouts: &[ScoredRollout]) -> Vec<f64> {
    let said = rollouts.iter().flat_map(|scored| {
        let rollout = scored.rollout();
        let response: Vec<TokenId> = rollout.response.iter().map(|token| token.id).collect();
        let batch = SequenceBatch::new(vec![Sequence::new(&rollout.prompt, &response)]);
        world.models.policy.frozen_log_probs(&batch, &[1.0]).unwrap().log_probs
    });
    said.map(f64::from).collect()
}

fn behavior(rollouts: &[ScoredRollout]) -> Vec<f64> {
    rollouts.iter().flat_map(|r| r.rollout().response.iter().map(|t| f64::from(t.behavior.0))).collect()
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn assert_close(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() < 1e-5 * expected.abs().max(1.0), "{what}: {got} instead of {expected}");
}

/// Goal: where every rollout is the live version's own and the engine agrees with the trainer, the guess is the truth. Method: the
/// same round with either word, its weights after four steps; the recorded log-probs are the trainer's to rounding, some 1e-7 nats,
/// and so are rewards, ratios and weights of the first step. The rest is what steps of Adam make of that.
#[test]
fn fresh_rollouts_teach_the_same_without_the_pass() {
    let after = |proximal: &str| {
        let mut world = world(81);
        world.config.proximal = proximal.to_string();
        (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-3, 0);
        let before = weights(&world);
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        let stats = run(&mut world, &rollouts, 0).stats;
        assert_eq!((stats.n_policy_steps, stats.n_value_steps), (4, 4));
        (before, weights(&world), stats)
    };
    let ((before, forward, exact), (_, guessed, stats)) = (after("forward"), after("log_linear"));
    let furthest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (moved, apart) = (furthest(&before, &forward), furthest(&forward, &guessed));
    assert!(moved > 1e-3 && apart < 1e-4 * moved, "{apart} apart after {moved}");
    assert!(apart > 0.0, "the last bits differ, or the knob does nothing");
    for (got, expected) in [
        (stats.ratio_mean, exact.ratio_mean),
        (stats.policy_approx_kl_k3, exact.policy_approx_kl_k3),
        (stats.objective_kl, exact.objective_kl),
        (stats.importance_weight_mean.unwrap(), exact.importance_weight_mean.unwrap()),
        (stats.return_mean, exact.return_mean),
    ] {
        assert_close(got, expected, "a number of the round");
    }
}

fn weights(world: &World) -> Vec<f32> {
    bytes_of(world.models.policy.parameters()).into_values().flatten().map(f32::from_bits).collect()
}

/// Goal: a token of the version before is taken to have been half of its way from its draw to now at the start of the round: α = 1/2.
/// Method: one step's numbers against the formula, written down from the recorded log-probs and the trainer's own: the ratio and the
/// weight are both the root of how much likelier the token has become, and the loss is made of them.
#[test]
fn a_token_of_the_version_before_is_half_way() {
    let (mut world, stale) = a_version_later(82);
    (world.config.minibatch, world.config.is_cap) = (32, 1000.0);
    let roots: Vec<f64> =
        said_now(&world, &stale).iter().zip(behavior(&stale)).map(|(l, drawn)| ((l - drawn) / 2.0).exp()).collect();
    let largest = roots.iter().copied().fold(0.0, f64::max);
    assert!(largest > 1.1, "the policy has moved: {largest}");
    let advantages = experience_behind(&world, &stale).whitened;
    let clipped = advantages.iter().zip(&roots).map(|(a, r)| r * (-a * r).max(-a * r.clamp(0.8, 1.2)));
    let loss = mean(&clipped.collect::<Vec<f64>>());
    let k3 = mean(&roots.iter().map(|r| bounded_k3(-r.ln())).collect::<Vec<f64>>());

    world.config.importance = "token_mask".to_string();
    (world.config.is_mask_low, world.config.is_mask_high, world.config.ess_min) = (0.95, 1.05, 0.0);
    let outside = roots.iter().filter(|r| !(0.95..=1.05).contains(*r)).count() as f64 / roots.len() as f64;
    assert!(outside > 0.1 && outside < 0.9, "{outside}");
    world.config.policy_learning_rate = 0.0;
    assert_close(run_behind(&mut world, &stale).stats.filtered_fraction.unwrap(), outside, "masked");

    world.config.importance = "token_truncate".to_string();
    let stats = run_behind(&mut world, &stale).stats;
    assert_eq!((stats.n_policy_steps, stats.staleness_mean), (1, 1.0), "{:?}", stats.trips);
    assert_close(stats.ratio_mean, mean(&roots), "ratio");
    assert_close(stats.ratio_max, largest, "largest ratio");
    assert_close(stats.importance_weight_mean.unwrap(), mean(&roots), "weight");
    assert_close(stats.policy_loss, loss, "loss");
    assert_close(stats.policy_approx_kl_k3, k3, "KL from the guess");
    assert_eq!((stats.filtered_fraction, stats.importance_truncated_fraction), (Some(0.0), Some(0.0)));
    world.config.is_cap = 1.0;
    let cut = roots.iter().filter(|r| **r > 1.0).count() as f64 / roots.len() as f64;
    assert_close(run_behind(&mut world, &stale).stats.importance_truncated_fraction.unwrap(), cut, "cut");
}

/// Goal: centre and weight are constants, although they are made of what has a gradient. Method: the gradients of a minibatch, every
/// bit against those with the same numbers written down beforehand; in pieces that cut nothing and in pieces of one episode.
#[test]
fn no_gradient_flows_through_the_guess() {
    let (mut world, stale) = a_version_later(83);
    let guessed = experience_behind(&world, &stale);
    let Proximal::LogLinear(mode) = guessed.proximal else { panic!("nobody computed it") };
    let now = said_now(&world, &stale);
    let behavior = behavior(&stale);
    let tokens = LogLinear { behavior: &behavior, drawn: &behavior, staleness: &vec![1; now.len()] };
    let log_probs = tokens.proximal(&now);
    let importance = tokens.weights(&log_probs, &vec![true; now.len()], mode);
    let pass = PolicyPass { old: log_probs.clone(), entropies: Vec::new() };
    let mut known = guessed.clone();
    (known.passes.policy, known.proximal) = (Some(pass), Proximal::Known { log_probs, importance });
    let members: Vec<usize> = (0..guessed.episodes.len()).collect();
    for micro_batch_tokens in [1 << 20, 1] {
        world.config.micro_batch_tokens = micro_batch_tokens;
        let gradients = |experience: &Experience| {
            let minibatch = Minibatch::new(experience, &members, Aggregation::TokenMean);
            let pace = &mut || ControlFlow::Continue(());
            minibatch.policy_gradients(&world.models, &world.config, &Kept::default(), Gradients::new(), pace).unwrap()
        };
        let ((of_guess, tally), (of_known, _)) = (gradients(&guessed), gradients(&known));
        assert!(largest_difference(&of_guess, &of_known) < 1e-7);
        assert!(tally.ratio_max > 1.1, "{}", tally.ratio_max);
    }
}

/// Goal: what truncation cut from a draw is no way that the policy has gone. Method: a step from fresh rollouts of which every token
/// is said to come from a draw that kept e^-0.05 of the mass: the ratio is 1, and the weight that mass.
#[test]
fn a_truncated_draw_is_centred_on_what_the_version_said() {
    let mut world = world(89);
    world.config.minibatch = 32;
    let truncated = |rollout| {
        World::redrawn(rollout, |token| (token.behavior.0, token.log_kept_mass) = (token.behavior.0 + 0.05, -0.05))
    };
    let rollouts: Vec<ScoredRollout> = world.rollouts(32, share_of(TokenId(3))).into_iter().map(truncated).collect();
    let stats = run(&mut world, &rollouts, 0).stats;
    assert_eq!(stats.n_policy_steps, 1, "{:?}", stats.trips);
    assert_close(stats.ratio_mean, 1.0, "ratio");
    assert_close(stats.importance_weight_mean.unwrap(), (-0.05_f64).exp(), "weight");
}

/// Goal: it learns, from data that are always a version old, whole weights and adapters, with the KL in the rewards and in the loss.
/// Method: a planted reward and rollouts of the version before in every round.
#[test]
fn a_planted_reward_is_learnt_from_the_version_before() {
    let variants: [fn(&mut config::Ppo); 4] = [
        |_| (),
        |config| (config.lora_rank, config.lora_alpha) = (4, 16.0),
        |config| (config.kl_in, config.kl_estimator) = ("loss".to_string(), "k2".to_string()),
        |config| config.importance = "off".to_string(),
    ];
    for (n, variant) in variants.into_iter().enumerate() {
        let mut world = World::with(87, |config| {
            log_linear(config);
            (config.policy_learning_rate, config.value_learning_rate) = (1e-2, 1e-2);
            (config.warmup_updates, config.kl_coef) = (0, 0.01);
            (config.stop_kl, config.skip_kl) = (1.0, 10.0);
            variant(config);
        });
        let mut behind = world.rollouts(32, share_of(TokenId(3)));
        let mut means = Vec::new();
        for _ in 0..24 {
            let drawn = world.rollouts(32, share_of(TokenId(3)));
            means.push(run_behind(&mut world, &std::mem::replace(&mut behind, drawn)).stats.objective_scores);
        }
        assert!(mean(&means[18..]) > mean(&means[..6]) + 0.05, "variant {n}: {means:?}");
    }
}

/// Goal: a record need not hold the machine's load here either. Method: two rounds, on one thread and on three.
#[test]
fn a_round_without_the_pass_gives_the_same_bits_on_any_number_of_threads() {
    let fingerprint = |n_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            let mut world = World::wide(88);
            log_linear(&mut world.config);
            world.config.micro_batch_tokens = 30;
            let rollouts = world.rollouts(8, share_of(TokenId(3)));
            run(&mut world, &rollouts, 0);
            let outcome = run_behind(&mut world, &rollouts);
            (crate::state::fingerprint(&world.models, 2).unwrap(), named(&outcome.stats).len())
        })
    };
    assert_eq!(fingerprint(1), fingerprint(3));
}
