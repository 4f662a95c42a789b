use policy::{TokenId, scalar_model::is_head};

use super::run;
use crate::{
    stats::named,
    test_world::{World, bytes_of, share_of},
};

/// A rate that nothing else has.
const OWN: f64 = 0.25;

/// The value model's weights after a round of one step, and what was said of the rates.
fn stepped(lora_rank: usize, value: f64, head: f64) -> (Vec<(String, Vec<u32>)>, Option<f64>) {
    let mut world = World::with(71, |config| {
        (config.lora_rank, config.minibatch, config.warmup_updates) = (lora_rank, 16, 4);
        (config.value_learning_rate, config.value_head_learning_rate) = (value, head);
    });
    let rollouts = world.rollouts(16, share_of(TokenId(3)));
    let stats = run(&mut world, &rollouts, 0).stats;
    assert_eq!(stats.n_value_steps, 1);
    assert_eq!(named(&stats).get("lr_value_head").copied(), stats.value_head_learning_rate);
    (bytes_of(world.models.value.parameters()).into_iter().collect(), stats.value_head_learning_rate)
}

/// Goal: the head steps at its own rate and nothing else does, whatever learns beside it. Method: a step at two rates, against one of
/// all at either, bit for bit; 0 stands for the rate of the rest.
#[test]
fn the_head_of_the_value_model_has_a_rate_of_its_own() {
    for lora_rank in [0, 4] {
        let ((own, told), (rest, untold), (whole, _)) =
            (stepped(lora_rank, 1e-3, OWN), stepped(lora_rank, 1e-3, 0.0), stepped(lora_rank, OWN, 0.0));
        assert_eq!(untold, None);
        // The first of four rounds of warm-up, which begins at a tenth.
        assert!((told.unwrap() - 0.1 * OWN).abs() < 1e-12, "{told:?}");
        let (mut n_own, mut n_others) = (0, 0);
        for ((own, rest), whole) in own.iter().zip(&rest).zip(&whole) {
            match is_head(&own.0) {
                true => assert!(own.1 == whole.1 && own.1 != rest.1, "rank {lora_rank}: {}", own.0),
                false => assert_eq!(own, rest, "rank {lora_rank}"),
            }
            *(if is_head(&own.0) { &mut n_own } else { &mut n_others }) += 1;
        }
        assert!(n_own == 2 && n_others > 2, "rank {lora_rank}: {n_own} and {n_others}");
        assert_eq!(stepped(lora_rank, 1e-3, 1e-3).0, rest, "rank {lora_rank}: 0 is the rate of the rest");
    }
}
