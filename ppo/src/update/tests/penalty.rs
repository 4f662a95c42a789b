use std::ops::ControlFlow;

use policy::{
    TokenId,
    optimizer::{Gradient, Gradients},
    sequence_batch::SequenceBatch,
};

use super::{Kept, LINEAGE, VOCAB, run};
use crate::{
    experience::{Experience, Limits, admit},
    loss::Aggregation,
    test_world::{World, share_of},
    update::step::Minibatch,
};

/// β of these tests: loud, so that a penalty that is missing or has the other sign cannot hide.
const BETA: f64 = 0.5;

/// A policy some way from its reference, and the experience of a round that pays the KL in the loss.
fn penalised(estimator: &str) -> (World, Experience) {
    let mut world = World::new(61);
    (world.config.advantage_estimator, world.config.kl_estimator) = ("grpo".to_string(), estimator.to_string());
    (world.config.kl_in, world.config.missing_eos) = ("loss".to_string(), "keep".to_string());
    (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
    (world.config.stop_kl, world.config.skip_kl) = (0.0, 0.0);
    for update in 0..4 {
        let rollouts = world.groups(4, 8, share_of(TokenId(3)));
        run(&mut world, &rollouts, update);
    }
    let rollouts = world.groups(2, 4, share_of(TokenId(3)));
    let limits = Limits { lineage: &LINEAGE, vocab_size: VOCAB, trains_client_limited: false, held_out_share: 0.0 };
    let episodes = admit(&rollouts, limits).episodes;
    let pace = &mut || ControlFlow::Continue(());
    let experience = Experience::collect(episodes, &[], &world.models, &world.config, BETA, pace).unwrap().0;
    world.config.policy_learning_rate = 1e-3;
    run(&mut world, &rollouts, 4);
    (world, experience)
}

/// The whole loss, written down anew: ratio to old, clip, and β·k of now and reference, a mean over tokens.
fn naive(world: &World, experience: &Experience, estimator: &str, beta: f64) -> f64 {
    let (passes, weights) = (&experience.passes, &experience.importance().unwrap().weights);
    let mut sum = 0.0;
    for (i, episode) in experience.episodes.iter().enumerate() {
        let batch = SequenceBatch::new(vec![episode.sequence.clone()]);
        let now = world.models.policy.frozen_log_probs(&batch, &[episode.temperature]).unwrap().log_probs;
        for (t, now) in experience.range(i).zip(now) {
            let (now, advantage) = (f64::from(now), experience.whitened[t]);
            let ratio = (now - experience.old_or_drawn[t]).exp();
            let d = now - passes.reference[t];
            let kl = if estimator == "k2" { d * d / 2.0 } else { (-d).exp() - 1.0 + d };
            let surrogate = (-advantage * ratio).max(-advantage * ratio.clamp(0.8, 1.2));
            sum += weights[t] * (surrogate + beta * kl);
        }
    }
    sum / experience.n_tokens() as f64
}

/// Goal: the penalty's gradient that reaches the weights is the formula's. Method: the loss is written down once more, and its
/// central differences along the gradient of each of some parameters are held against that gradient's length; without the
/// penalty they would be something else.
#[test]
fn the_gradient_of_the_penalty_reaches_every_weight() {
    for estimator in ["k2", "k3"] {
        let (world, experience) = penalised(estimator);
        assert!(experience.rewards.iter().all(|r| r.abs() <= 1.0), "the rewards pay no KL");
        let members: Vec<usize> = (0..experience.episodes.len()).collect();
        let minibatch = Minibatch::new(&experience, &members, Aggregation::TokenMean);
        let pace = &mut || ControlFlow::Continue(());
        let (gradients, tally) =
            minibatch.policy_gradients(&world.models, &world.config, &Kept::default(), Gradients::new(), pace).unwrap();
        let loss = naive(&world, &experience, estimator, BETA);
        assert!((tally.loss - loss).abs() < 1e-5, "{estimator}: {} instead of {loss}", tally.loss);
        for name in ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight", "output_norm.weight"] {
            let gradient = gradients.get(name).map(Gradient::to_vec).unwrap().unwrap();
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let slope = |beta: f64| {
                let at = |step: f64| {
                    moved(&world, name, &gradient, step / norm, || naive(&world, &experience, estimator, beta))
                };
                (at(1e-2) - at(-1e-2)) / 2e-2
            };
            let (with, without) = (slope(BETA), slope(0.0));
            assert!((with - norm).abs() < 0.02 * norm, "{estimator}, {name}: {with} instead of {norm}");
            assert!((without - norm).abs() > 0.05 * norm, "{estimator}, {name}: the penalty does not matter here");
        }
    }
}

/// What `measure` says when one parameter has gone so far along a direction; it goes back afterwards.
fn moved(world: &World, name: &str, direction: &[f32], step: f64, measure: impl Fn() -> f64) -> f64 {
    let var = &world.models.policy.parameters()[name];
    let before = var.as_detached_tensor().copy().unwrap();
    let direction = candle_core::Tensor::from_slice(direction, before.dims(), before.device()).unwrap();
    var.set(&(&before + (direction * step).unwrap()).unwrap()).unwrap();
    let measured = measure();
    var.set(&before).unwrap();
    measured
}

/// Goal: a policy that is paid nothing goes back to its reference. Method: one that has left it, and rewards that are all the same.
#[test]
fn the_penalty_alone_pulls_back_to_the_reference() {
    for estimator in ["k2", "k3"] {
        let mut world = World::new(62);
        (world.config.advantage_estimator, world.config.missing_eos) = ("grpo".to_string(), "keep".to_string());
        (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
        (world.config.stop_kl, world.config.skip_kl) = (0.0, 0.0);
        for update in 0..6 {
            let rollouts = world.groups(4, 8, share_of(TokenId(3)));
            run(&mut world, &rollouts, update);
        }
        (world.config.kl_in, world.config.kl_estimator) = ("loss".to_string(), estimator.to_string());
        (world.models.kl_coef, world.config.policy_learning_rate) = (1.0, 3e-3);
        let distances: Vec<f64> = (6..14)
            .map(|update| {
                let rollouts = world.groups(4, 8, |_| 0.0);
                run(&mut world, &rollouts, update).stats.objective_kl_k3
            })
            .collect();
        let (first, last) = (distances[0], distances[distances.len() - 1]);
        assert!(first > 1e-3 && last < 0.5 * first, "{estimator}: {distances:?}");
    }
}
