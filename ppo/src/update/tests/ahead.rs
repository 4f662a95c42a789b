//! Passes of the first minibatch, made before the steps and kept.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use policy::{TokenId, architecture::llama::TOKEN_EMBEDDING, optimizer::Gradients, transformer::Keep};

use super::{Kept, LINEAGE, Limits, Minibatch, Round, VOCAB, World, admit, largest_difference, share_of};
use crate::{
    experience::{Episode, Experience},
    loss::Aggregation,
    update::minibatches,
};

/// A world with steps on six episodes.
fn world(keep: Keep, micro_batch_tokens: usize) -> World {
    let mut world = World::new(91);
    (world.config.minibatch, world.config.micro_batch_tokens) = (6, micro_batch_tokens);
    world.models.policy = world.models.policy.with_keep(keep);
    world
}

/// The experience of a round of these episodes, what of policy and value model was kept, and the members of the first minibatch.
fn begin(world: &World, episodes: Vec<Episode>) -> (Experience, [Kept; 2], Vec<usize>) {
    let round = Round { config: &world.config, update: 5, lineage: &LINEAGE, pretraining: &[] };
    let order = round.order(0, episodes.len());
    let first = minibatches(&order, world.config.minibatch)[0].to_vec();
    let pace = &mut || ControlFlow::Continue(());
    let (experience, ahead) = round.collect(episodes, &world.models, pace).unwrap();
    (experience, [ahead.policy, ahead.value], first)
}

fn episodes(world: &mut World) -> Vec<Episode> {
    let limits = Limits { lineage: &LINEAGE, vocab_size: VOCAB, trains_client_limited: false, held_out_share: 0.0 };
    admit(&world.rollouts(12, share_of(TokenId(3))), limits).episodes
}

/// Goal: what is kept is what the first step would compute, to the last bit, and it takes all of it. Method: gradients with and without
/// it, with all activations kept and with the streams alone, of one wave of pieces and of several; the ratio is then exactly 1.
#[test]
fn the_first_step_goes_back_from_passes_made_before() {
    for (keep, micro_batch_tokens) in [(Keep::All, 0), (Keep::Inputs, 0), (Keep::All, 5)] {
        let mut world = world(keep, micro_batch_tokens);
        let episodes = episodes(&mut world);
        let (experience, [policy, value], first) = begin(&world, episodes);
        let n_kept = [policy.len(), value.len()];
        assert!(n_kept[0] > 1 && n_kept[0] == n_kept[1], "as many pieces as run at once: {n_kept:?}");
        assert!(policy.take(&[usize::MAX]).is_none(), "another piece is not what it asked for");
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

/// Goal: numbers of episodes that no longer mean the same name nobody's passes. Method: a value model that chokes on one token, so that
/// some episodes leave and the others move up.
#[test]
fn nothing_is_kept_where_episodes_were_taken_out() {
    let mut world = world(Keep::All, 0);
    let episodes = episodes(&mut world);
    let n_with = |id: u32| episodes.iter().filter(|e| e.sequence.tokens.contains(&TokenId(id))).count();
    let rarest = (0..VOCAB as u32).filter(|id| n_with(*id) > 0).min_by_key(|id| n_with(*id)).unwrap();
    let (n, n_broken) = (episodes.len(), n_with(rarest));
    let table = &world.models.value.parameters()[TOKEN_EMBEDDING];
    let mut numbers = table.as_detached_tensor().to_vec2::<f32>().unwrap();
    numbers[rarest as usize].fill(f32::NAN);
    table.set(&Tensor::new(numbers, &Device::Cpu).unwrap()).unwrap();
    let (experience, [policy, value], _) = begin(&world, episodes);
    // A last token that chokes is never read.
    assert!((1..=n_broken).contains(&experience.broken.len()) && n_broken < n);
    assert_eq!(experience.episodes.len(), n - experience.broken.len());
    assert_eq!([policy.len(), value.len()], [0, 0]);
}
