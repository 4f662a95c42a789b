//! What a round does not know that spares the pass, and what is made of its first minibatch.

use super::*;

/// Goal: what nobody has measured is absent, not 0. Method: the names of a round with either word, of one in which the value model
/// warms up, whose policy nobody runs at all, and of one whose rollouts the live version did not draw.
#[test]
fn what_nobody_has_measured_is_absent() {
    let names = |seed: u64, change: fn(&mut config::Ppo)| {
        let mut world = World::with(seed, |config| {
            log_linear(config);
            change(config);
        });
        let rollouts = world.rollouts(32, share_of(TokenId(3)));
        named(&run(&mut world, &rollouts, 0).stats)
    };
    let of_pass = [
        "objective/entropy",
        "policy/entropy_avg",
        "sampling/ess",
        "sampling/sampling_logp_difference/mean",
        "sampling/sampling_logp_difference/max",
        "sampling/kl_k3",
    ];
    let of_weights =
        ["sampling/importance_sampling_ratio/mean", "sampling/truncated_fraction", "sampling/filtered_fraction"];
    let of_first = ["first_minibatch/entropy", "first_minibatch/ess", "first_minibatch/logp_difference"];
    let forward = names(84, |config| config.proximal = "forward".to_string());
    let spared = names(84, |_| ());
    let warming_up = names(84, |config| config.value_warmup_updates = 1);
    for name in of_pass {
        let known = [&forward, &spared, &warming_up].map(|numbers| numbers.contains_key(name));
        assert_eq!(known, [true, false, false], "{name}");
    }
    for name in of_weights {
        let known = [&forward, &spared, &warming_up].map(|numbers| numbers.contains_key(name));
        assert_eq!(known, [true, true, false], "{name}");
    }
    for name in of_first {
        let known = [&forward, &spared, &warming_up].map(|numbers| numbers.contains_key(name));
        assert_eq!(known, [false, true, false], "{name}");
    }
    assert!(spared["first_minibatch/logp_difference"] < 1e-6);
    assert!((spared["first_minibatch/entropy"] - forward["objective/entropy"]).abs() < 0.05);
    assert_eq!(forward.len() - of_pass.len(), spared.len() - of_first.len(), "nothing else");
    let (mut world, stale) = a_version_later(84);
    let numbers = named(&run_behind(&mut world, &stale).stats);
    assert!(!numbers.contains_key("first_minibatch/logp_difference") && numbers.contains_key("first_minibatch/ess"));
}

/// Goal: an engine that computes something else still stops learning, and so do data of another policy, although neither ratio nor
/// weight shows them. Method: rollouts as if drawn with 0.05 nats less a token, of which the first minibatch tells before any step;
/// one answer that is hardly the policy's; and what the round makes of the first where nobody looks.
#[test]
fn the_first_minibatch_tells_of_what_the_guess_hides() {
    let refused = |world: &mut World, rollouts: &[ScoredRollout], guard: Guard, reason: DropReason| {
        let bits = |world: &World| [world.models.policy.parameters(), world.models.value.parameters()].map(bytes_of);
        let before = bits(world);
        let outcome = run(world, rollouts, 0);
        assert_eq!(outcome.stats.trips.count(guard), 1, "{:?}", outcome.stats.trips);
        assert!(bits(world) == before && outcome.is_skipped(), "no step of either model");
        assert!(outcome.fates.iter().all(|fate| *fate == Fate::Dropped(reason)), "{:?}", outcome.fates);
    };
    let mut world = world(85);
    (world.config.policy_learning_rate, world.config.warmup_updates, world.config.minibatch) = (1e-3, 0, 16);
    let rollouts = world.rollouts(16, share_of(TokenId(3)));
    let drawn_with = |gap: f32| -> Vec<ScoredRollout> {
        rollouts.iter().map(|r| World::redrawn(r.clone(), |token| token.behavior.0 -= gap)).collect()
    };
    world.config.parity_gap_max = 0.02;
    refused(&mut world, &drawn_with(0.05), Guard::Parity, DropReason::Guard);
    world.config.parity_gap_max = 0.1;
    let stats = run(&mut world, &drawn_with(0.05), 0).stats;
    assert_close(stats.ratio_mean, 0.05_f64.exp(), "the gap, taken for learning");
    assert_eq!((stats.n_policy_steps, stats.importance_weight_mean), (1, Some(1.0)));
    assert_close(named(&stats)["first_minibatch/logp_difference"], 0.05, "but told of");

    (world.config.parity_gap_max, world.config.is_cap) = (0.0, 1000.0);
    let mut rollouts = drawn_with(0.0);
    let stranger = rollouts.pop().unwrap();
    rollouts.push(World::redrawn(stranger, |token| token.behavior.0 -= 4.0));
    refused(&mut world, &rollouts, Guard::Ess, DropReason::OffPolicy);
    world.config.ess_min = 0.0;
    let outcome = run(&mut world, &rollouts, 0);
    assert!(outcome.stats.ran_away && outcome.stats.trips.count(Guard::SkipKl) == 1, "it passes for a way too far");
    world.config.skip_kl = 0.0;
    world.config.stop_kl = 0.0;
    assert!(run(&mut world, &rollouts, 0).has_new_policy(), "both are knobs: {:?}", outcome.stats.trips);
}

/// Goal: how far the last step has come is measured, not guessed. Method: a round of two minibatches of stale rollouts; its way and
/// its lessons against passes before and after over the first of them; and one step too far.
#[test]
fn the_way_of_the_last_step_is_measured_from_the_first_minibatch() {
    let (mut world, stale) = a_version_later(86);
    (world.config.minibatch, world.config.policy_learning_rate) = (16, 3e-3);
    let order = permutation(world.config.seed, 1, 0, 32);
    let mut members = minibatches(&order, 16)[0].to_vec();
    members.sort_unstable();
    let first: Vec<ScoredRollout> = members.iter().map(|i| stale[*i].clone()).collect();
    let old = said_now(&world, &first);
    let outcome = run_behind(&mut world, &stale);
    let new = said_now(&world, &first);
    let k3 = mean(&old.iter().zip(&new).map(|(old, new)| bounded_k3(old - new)).collect::<Vec<f64>>());
    assert_eq!(outcome.stats.n_policy_steps, 2, "{:?}", outcome.stats.trips);
    assert!(k3 > 1e-4 && (outcome.stats.policy_final_kl_k3 / k3 - 1.0).abs() < 1e-3, "{k3}");
    assert!(outcome.stats.policy_final_kl_to_reference > 0.0);
    assert_eq!(outcome.lessons.len(), 16);
    let sums = outcome.lessons.iter().fold((0.0, 0.0), |(o, n), l| (o + l.old_log_prob, n + l.new_log_prob));
    assert_close(sums.0, old.iter().sum(), "before");
    assert_close(sums.1, new.iter().sum(), "after");
    assert!(alignment(&outcome.lessons).unwrap() > 0.0);

    let before = bytes_of(world.models.policy.parameters());
    (world.config.minibatch, world.config.policy_learning_rate, world.config.max_grad_norm) = (32, 0.5, 1e6);
    world.config.skip_kl = 0.2;
    let outcome = run_behind(&mut world, &stale);
    assert!(outcome.stats.ran_away && outcome.stats.trips.count(Guard::SkipKl) == 1, "{:?}", outcome.stats.trips);
    assert_eq!(bytes_of(world.models.policy.parameters()), before);
}
