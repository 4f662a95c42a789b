use policy::TokenId;

use super::run;
use crate::{
    stats::named,
    test_world::{World, share_of},
};

/// What is told of the cost, and nothing of it where there is none.
#[test]
fn what_length_took_is_told_beside_what_the_rules_changed() {
    const NAME: &str = "objective/length_penalty";
    let stats = |length_penalty: f64| {
        let mut world = World::new(72);
        (world.config.length_penalty, world.config.length_free) = (length_penalty, 2);
        let rollouts = world.rollouts(16, share_of(TokenId(3)));
        let lengths: Vec<usize> = rollouts.iter().map(|scored| scored.rollout().response.len()).collect();
        (run(&mut world, &rollouts, 0).stats, lengths)
    };
    let ((free, _), (paying, lengths)) = (stats(0.0), stats(0.1));
    assert_eq!((free.length_penalty, named(&free).get(NAME)), (None, None));
    let taken = lengths.iter().map(|n| 0.1 * n.saturating_sub(2) as f64).sum::<f64>() / lengths.len() as f64;
    assert!(taken > 0.0 && (paying.length_penalty.unwrap() - taken).abs() < 1e-12, "{paying:?}");
    assert_eq!(named(&paying)[NAME], paying.length_penalty.unwrap());
    assert_eq!(paying.objective_scores, free.objective_scores, "the score is told as it was judged");
    assert!((free.objective_rlhf_reward - paying.objective_rlhf_reward - taken).abs() < 1e-9, "and less is paid");
    assert!(free.scores_changed_fraction > 0.0 && free.scores_changed_fraction < 1.0);
    assert_eq!(
        paying.scores_changed_fraction, free.scores_changed_fraction,
        "what length takes is no change of a rule"
    );
}

/// Goal: a judge that likes length does not get it where length costs more. Method: the same rewards with and without the cost.
#[test]
fn answers_grow_under_such_a_judge_and_shrink_when_they_pay() {
    let mean_lengths = |length_penalty: f64| {
        let mut world = World::new(73);
        (world.config.policy_learning_rate, world.config.value_learning_rate, world.config.warmup_updates) =
            (1e-2, 1e-2, 0);
        (world.config.kl_coef, world.models.kl_coef) = (0.0, 0.0);
        (world.config.stop_kl, world.config.skip_kl) = (0.0, 0.0);
        world.config.missing_eos = "keep".to_string();
        world.config.length_penalty = length_penalty;
        let lengths: Vec<f64> = (0..12)
            .map(|update| {
                let rollouts = world.rollouts(32, |response| 0.5 * response.len() as f64);
                run(&mut world, &rollouts, update).stats.length_mean
            })
            .collect();
        (lengths[0], lengths[11])
    };
    let ((first, longer), (_, shorter)) = (mean_lengths(0.0), mean_lengths(1.0));
    assert!(longer > first + 1.0 && shorter < first - 1.0, "{first}: {longer} free, {shorter} when they pay");
}
