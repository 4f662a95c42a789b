use policy::{TokenId, causal_lm::CausalLm, checkpoint::WeightType, sequence_batch::SequenceBatch};

use super::{Fate, experience, run};
use crate::{
    rollout_log::DropReason,
    test_world::{World, bytes_of, share_of},
};

/// Goal: every estimator that needs no value model learns, and leaves the value model alone. Method: eight answers to each of
/// four prompts, a planted reward, some rounds.
#[test]
fn without_a_value_model_a_planted_reward_is_learnt_all_the_same() {
    for estimator in ["rloo", "grpo", "dr_grpo", "reinforce_pp", "reinforce_pp_baseline"] {
        let mut world = World::new(31);
        world.config.advantage_estimator = estimator.to_string();
        (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
        (world.config.stop_kl, world.config.skip_kl) = (1.0, 10.0);
        world.config.missing_eos = "keep".to_string();
        let value = bytes_of(world.models.value.parameters());
        let mut means = Vec::new();
        for update in 0..12 {
            let rollouts = world.groups(4, 8, share_of(TokenId(3)));
            let stats = run(&mut world, &rollouts, update).stats;
            assert_eq!((stats.n_value_steps, stats.n_singletons), (0, 0));
            means.push(stats.objective_scores);
        }
        let (first, last) = (means[..2].iter().sum::<f64>() / 2.0, means[10..].iter().sum::<f64>() / 2.0);
        assert!(last > first + 0.1, "{estimator}: {means:?}");
        assert_eq!(bytes_of(world.models.value.parameters()), value, "{estimator}");
    }
}

/// Nothing whitens RLOO's advantages: a judge that is ten times as loud must be held by the clips of ratio and norm alone.
#[test]
fn ten_times_the_reward_without_whitening_does_not_run_away() {
    let mut world = World::new(38);
    (world.config.advantage_estimator, world.config.score_clip) = ("rloo".to_string(), 1e6);
    (world.config.policy_learning_rate, world.config.warmup_updates, world.config.epochs) = (3e-3, 0, 2);
    let judge = share_of(TokenId(3));
    for update in 0..12 {
        let rollouts = world.groups(4, 8, |response| 10.0 * judge(response));
        let stats = run(&mut world, &rollouts, update).stats;
        assert!(!stats.ran_away && stats.objective_kl.is_finite() && stats.policy_loss.is_finite(), "{stats:?}");
        assert!(stats.policy_grad_norm_max > world.config.max_grad_norm, "it is the clip that holds it");
    }
}

#[test]
fn traffic_with_one_answer_a_prompt_is_dropped_with_its_reason() {
    let mut world = World::new(32);
    world.config.advantage_estimator = "rloo".to_string();
    let mut rollouts = world.groups(6, 1, share_of(TokenId(3)));
    let before = bytes_of(world.models.policy.parameters());
    let outcome = run(&mut world, &rollouts, 0);
    assert_eq!(outcome.n_dropped()[&DropReason::Singleton], 6);
    assert_eq!((outcome.stats.n_singletons, outcome.has_new_policy()), (6, false));
    assert!(!outcome.is_skipped(), "nothing is wrong with the learner");
    assert_eq!(bytes_of(world.models.policy.parameters()), before);
    rollouts.extend(world.groups(1, 7, share_of(TokenId(3))));
    let outcome = run(&mut world, &rollouts, 0);
    assert_eq!(outcome.fates.iter().filter(|fate| **fate == Fate::Trained).count(), 8, "the first found company");
}

/// Goal: the bonus has the right sign and reaches the gradient. Method: a policy that has become sure of itself, one more
/// round with and without it.
#[test]
fn the_entropy_bonus_keeps_the_policy_open() {
    let entropy_after = |coef: f64| {
        let mut world = World::new(33);
        (world.config.policy_learning_rate, world.config.warmup_updates) = (1e-2, 0);
        (world.config.stop_kl, world.config.skip_kl) = (1.0, 10.0);
        for update in 0..6 {
            world.config.entropy_coef = if update < 4 { 0.0 } else { coef };
            let rollouts = world.rollouts(32, share_of(TokenId(3)));
            run(&mut world, &rollouts, update);
        }
        world.config.policy_learning_rate = 0.0;
        let rollouts = world.rollouts(64, share_of(TokenId(3)));
        run(&mut world, &rollouts, 6).stats.objective_entropy.unwrap()
    };
    let (with, without) = (entropy_after(1.0), entropy_after(0.0));
    assert!(with > without + 0.02, "with {with}, without {without}");
}

/// A learning value model and a policy that stands still, until the value model knows what it talks about.
#[test]
fn the_value_model_warms_up_alone() {
    let mut world = World::new(34);
    world.config.value_warmup_updates = 2;
    let policy = bytes_of(world.models.policy.parameters());
    let mut value = bytes_of(world.models.value.parameters());
    for update in 0..2 {
        let rollouts = world.rollouts(16, share_of(TokenId(3)));
        let outcome = run(&mut world, &rollouts, update);
        assert!(outcome.stats.is_value_warmup && !outcome.has_new_policy() && !outcome.is_skipped());
        assert!(outcome.fates.iter().all(|fate| *fate == Fate::Trained));
        assert_eq!(bytes_of(world.models.policy.parameters()), policy);
        let now = bytes_of(world.models.value.parameters());
        assert_ne!(now, value);
        value = now;
    }
    assert_eq!(world.models.control.n_value_rounds, 2);
    let rollouts = world.rollouts(16, share_of(TokenId(3)));
    let outcome = run(&mut world, &rollouts, 2);
    assert!(outcome.has_new_policy() && !outcome.stats.is_value_warmup);
}

/// Goal: rounds in which the policy stood still are none of its warm-up. Method: a warm-up of the value model that is longer than
/// that of the rates, and after it a round that is taken back; the rates of each round, in tenths of what they come to.
#[test]
fn the_policys_rate_rises_with_its_own_rounds() {
    let mut world = World::new(40);
    (world.config.value_warmup_updates, world.config.warmup_updates) = (3, 3);
    let knobs = world.config.clone();
    let mut tenths = Vec::new();
    for update in 0..8 {
        world.config.skip_kl = if update == 4 { 1e-12 } else { knobs.skip_kl };
        let rollouts = world.rollouts(16, share_of(TokenId(3)));
        let stats = run(&mut world, &rollouts, update).stats;
        assert_eq!((stats.ran_away, stats.is_value_warmup), (update == 4, update < 3));
        let of = |rate: f64, peak: f64| (10.0 * rate / peak).round() as u32;
        tenths.push((
            of(stats.policy_learning_rate, knobs.policy_learning_rate),
            of(stats.value_learning_rate, knobs.value_learning_rate),
        ));
    }
    assert_eq!(tenths, [(1, 1), (1, 4), (1, 7), (1, 10), (4, 10), (4, 10), (7, 10), (10, 10)]);
    assert_eq!(world.models.control.n_policy_rounds, 4);
}

/// While it warms up, its targets are whole returns: γ and the value model's own words do not enter them.
#[test]
fn the_first_targets_are_whole_returns() {
    let mut world = World::new(35);
    (world.config.lambda, world.config.value_warmup_updates) = (0.0, 1);
    world.config.missing_eos = "keep".to_string();
    let rollouts = world.rollouts(16, share_of(TokenId(3)));
    let stats = run(&mut world, &rollouts, 0).stats;
    // Every token of an answer has its score as return, and there is no divergence yet.
    let tokens: Vec<f64> = rollouts.iter().flat_map(|r| vec![r.scored().score.0; r.rollout().response.len()]).collect();
    let mean = tokens.iter().sum::<f64>() / tokens.len() as f64;
    assert!((stats.return_mean - mean).abs() < 1e-6, "{} instead of {mean}", stats.return_mean);
}

/// Goal: what was cut off is continued by the value model's own word at its last token, and nothing else is. Method: a value model
/// that has learnt something, asked for each answer by itself.
#[test]
fn what_was_cut_off_is_continued_by_the_value_model() {
    let mut world = World::new(39);
    (world.config.value_learning_rate, world.config.warmup_updates) = (1e-2, 0);
    for update in 0..3 {
        let rollouts = world.rollouts(16, share_of(TokenId(3)));
        run(&mut world, &rollouts, update);
    }
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    assert!(experience(&world, &rollouts).passes.last_values.iter().all(|value| *value == 0.0), "nobody asked");
    world.config.missing_eos = "bootstrap".to_string();
    let got = experience(&world, &rollouts);
    let mut n_cut = 0;
    for (i, episode) in got.episodes.iter().enumerate() {
        let batch = SequenceBatch::new(vec![episode.sequence.clone()]);
        let alone = f64::from(world.models.value.scores_at_last(&batch).unwrap()[0]);
        let expected = if episode.terminated { 0.0 } else { alone };
        n_cut += usize::from(!episode.terminated);
        assert!((got.passes.last_values[i] - expected).abs() < 1e-5, "{i}: {:?}", got.passes.last_values);
        assert!(alone.abs() > 1e-3, "it has an opinion");
        if !episode.terminated {
            // At the last token: the KL, and what is still to come (gamma is 1).
            let last = got.range(i).end - 1;
            let target = got.rewards[last] + alone - got.passes.values[last];
            assert!((got.advantages[last] - target).abs() < 1e-5);
        }
    }
    assert!(n_cut > 0 && n_cut < got.episodes.len(), "{n_cut} were cut off");
}

#[test]
fn a_value_loss_without_weight_moves_nothing() {
    let mut world = World::new(36);
    world.config.value_coef = 0.0;
    let value = bytes_of(world.models.value.parameters());
    let rollouts = world.rollouts(8, share_of(TokenId(3)));
    assert!(run(&mut world, &rollouts, 0).stats.n_value_steps > 0);
    assert_eq!(bytes_of(world.models.value.parameters()), value);
}

/// Goal: the average follows as its formula says and is a policy of its own. Method: the plain formula beside it.
#[test]
fn the_average_of_the_weights_follows_the_rounds() {
    let mut world = World::new(37);
    (world.config.ema_decay, world.config.policy_learning_rate, world.config.warmup_updates) = (0.9, 1e-3, 0);
    let name = "token_embd.weight";
    let weights = |world: &World| -> Vec<f64> {
        let tensor = world.models.policy.parameters()[name].as_detached_tensor().flatten_all().unwrap();
        tensor.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    };
    let mut expected = weights(&world);
    for update in 0..3 {
        let rollouts = world.rollouts(8, share_of(TokenId(3)));
        run(&mut world, &rollouts, update);
        expected.iter_mut().zip(weights(&world)).for_each(|(a, w)| *a = 0.9 * *a + 0.1 * w);
    }
    let average = world.models.average.clone().unwrap();
    let got = average.tensors()[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(got.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6));
    assert!(got.iter().zip(weights(&world)).any(|(a, w)| (f64::from(*a) - w).abs() > 1e-5), "it lags");
    let base = policy::transformer::random_checkpoint(world.models.policy.trunk().shape(), 0).unwrap();
    let checkpoint = average.to_checkpoint(&base, WeightType::F32);
    let policy = CausalLm::from_checkpoint(&checkpoint, &candle_core::Device::Cpu).unwrap();
    assert_eq!(policy.parameters()[name].flatten_all().unwrap().to_vec1::<f32>().unwrap(), got);
    world.config.ema_decay = 0.0;
    let rollouts = world.rollouts(8, share_of(TokenId(3)));
    run(&mut world, &rollouts, 3);
    assert!(world.models.average.is_none(), "nobody wants it any more");
}
