//! Passes of the first minibatch, made before the steps and kept.

use std::ops::ControlFlow;

use policy::{TokenId, optimizer::Gradients, transformer::Keep};

use super::{Kept, LINEAGE, Limits, Minibatch, Round, VOCAB, World, admit, largest_difference, share_of};
use crate::{experience::Experience, loss::Aggregation};

/// A world, the experience of a round in it, what was kept, and the members of the first minibatch.
fn begun(keep: Keep, micro_batch_tokens: usize) -> (World, Experience, [Kept; 2], Vec<usize>) {
    let mut world = World::new(91);
    (world.config.minibatch, world.config.micro_batch_tokens) = (6, micro_batch_tokens);
    world.models.policy = world.models.policy.with_keep(keep);
    let rollouts = world.rollouts(12, share_of(TokenId(3)));
    let limits = Limits { lineage: &LINEAGE, vocab_size: VOCAB, trains_client_limited: false, held_out_share: 0.0 };
    let episodes = admit(&rollouts, limits).episodes;
    let round = Round { config: &world.config, update: 5, lineage: &LINEAGE, pretraining: &[] };
    let order = round.order(0, episodes.len());
    let first = super::super::minibatches(&order, world.config.minibatch)[0].to_vec();
    let (experience, ahead) = round.collect(episodes, &world.models, &mut || ControlFlow::Continue(())).unwrap();
    (world, experience, [ahead.policy, ahead.value], first)
}

/// Goal: what is kept is what the first step would compute, to the last bit, and it takes all of it. Method: gradients with and without
/// it, with all activations kept and with the streams alone, of one wave of pieces and of several; the ratio is then exactly 1.
#[test]
fn the_first_step_goes_back_from_passes_made_before() {
    for (keep, micro_batch_tokens) in [(Keep::All, 0), (Keep::Inputs, 0), (Keep::All, 5)] {
        let (world, experience, [policy, value], first) = begun(keep, micro_batch_tokens);
        let n_kept = [policy.len(), value.len()];
        assert!(n_kept[0] > 1 && n_kept[0] == n_kept[1], "as many pieces as run at once: {n_kept:?}");
        let minibatch = Minibatch::new(&experience, &first, Aggregation::TokenMean);
        let pace = &mut || ControlFlow::Continue(());
        let mut gradients = |policy: &Kept, value: &Kept| {
            let (models, config) = (&world.models, &world.config);
            let (of_policy, tally) =
                minibatch.policy_gradients(models, config, policy, Gradients::new(), pace).unwrap();
            let (of_value, _) = minibatch.value_gradients(models, config, value, Gradients::new(), pace).unwrap();
            assert_eq!((tally.ratio_max, tally.approx_kl_k3()), (1.0, 0.0), "cut as the step cuts, ℓ is ℓ_old");
            [of_policy, of_value]
        };
        let spared = gradients(&policy, &value);
        assert_eq!([policy.len(), value.len()], [0, 0], "the step has taken all");
        let again = gradients(&Kept::default(), &Kept::default());
        for (spared, again) in spared.iter().zip(&again) {
            assert_eq!(largest_difference(spared, again), 0.0, "{keep:?} at {micro_batch_tokens}");
        }
    }
}
