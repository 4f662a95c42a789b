use policy::{TokenId, transformer::Adapter};

use super::run;
use crate::test_world::{World, bytes_of, share_of};

fn world(seed: u64) -> World {
    World::with(seed, |config| {
        (config.lora_rank, config.lora_alpha) = (4, 16.0);
        (config.policy_learning_rate, config.value_learning_rate, config.warmup_updates) = (1e-2, 1e-2, 0);
        config.kl_coef = 0.01;
    })
}

/// Goal: with adapters one set of weights serves all roles and stays what it was, while the policy learns. Method: rounds on a
/// planted reward; bits of the base, KL of the first round, mean score of the first and the last.
#[test]
fn adapters_learn_and_the_weights_that_all_roles_share_stay() {
    let mut world = world(31);
    let base = bytes_of(world.models.reference.parameters());
    let mut scores = Vec::new();
    for update in 0..30 {
        let rollouts = world.rollouts(64, share_of(TokenId(3)));
        let stats = run(&mut world, &rollouts, update).stats;
        assert!(update > 0 || stats.objective_kl == 0.0, "a new adapter is version 0");
        scores.push(stats.objective_scores);
    }
    assert!(scores[29] > scores[0] + 0.2, "{scores:?}");
    assert_eq!(bytes_of(world.models.reference.parameters()), base);
    let names = |model: &std::collections::BTreeMap<String, candle_core::Var>| model.len();
    assert_eq!(names(world.models.policy.parameters()), 14, "two factors for each of seven layers");
    assert_eq!(names(world.models.value.parameters()), 16, "and a head");
    for trunk in [world.models.policy.trunk(), world.models.value.trunk()] {
        assert_eq!(bytes_of(trunk.parameters()), base);
    }
}

/// Goal: policy and value model do not share what they learn. Method: one round; both adapters moved, and differ.
#[test]
fn each_role_has_an_adapter_of_its_own() {
    let mut world = world(32);
    let adapters = |world: &World| {
        let of = |adapter: Option<&Adapter>| bytes_of(adapter.unwrap().parameters());
        (of(world.models.policy.trunk().adapter()), of(world.models.value.trunk().adapter()))
    };
    let before = adapters(&world);
    let rollouts = world.rollouts(16, share_of(TokenId(3)));
    run(&mut world, &rollouts, 0);
    let after = adapters(&world);
    assert!(before.0 != after.0 && before.1 != after.1 && after.0 != after.1 && before.0 != before.1);
}
