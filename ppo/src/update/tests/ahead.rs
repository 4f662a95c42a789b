//! Passes of the first minibatch, made before the steps and kept.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use policy::{Rollout, TokenId, architecture::llama::TOKEN_EMBEDDING, optimizer::Gradients, transformer::Keep};

use reward::ScoredRollout;

use super::{Kept, LINEAGE, Limits, Minibatch, Round, VOCAB, World, admit, largest_difference, share_of};
use crate::{
    experience::{Budget, Experience, MicroBatches},
    loss::Aggregation,
    update::minibatches,
};

/// The same with steps on six episodes.
fn of_six(mut world: World, keep: Keep, micro_batch_tokens: usize) -> World {
    (world.config.minibatch, world.config.micro_batch_tokens) = (6, micro_batch_tokens);
    world.models.policy = world.models.policy.with_keep(keep);
    world.models.value = world.models.value.with_keep(keep);
    world
}

/// The experience of a round of these rollouts, what of policy and value model was kept, and the members of the first minibatch.
fn begin(world: &World, rollouts: &[ScoredRollout]) -> (Experience, [Kept; 2], Vec<usize>) {
    let limits = Limits { lineage: &LINEAGE, vocab_size: VOCAB, trains_client_limited: false, held_out_share: 0.0 };
    let episodes = admit(rollouts, limits).episodes;
    assert_eq!(episodes.len(), rollouts.len());
    let round = Round { config: &world.config, update: 5, lineage: &LINEAGE, pretraining: &[] };
    let order = round.order(0, episodes.len());
    let first = minibatches(&order, world.config.minibatch)[0].to_vec();
    let pace = &mut || ControlFlow::Continue(());
    let (experience, ahead) = round.collect(episodes, &world.models, pace).unwrap();
    (experience, [ahead.policy, ahead.value], first)
}

/// So many threads.
fn pool(n: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()
}

/// Goal: what is kept is what the first step would compute, to the last bit, and it takes all of it. Method: gradients with and without
/// it, with all activations kept and with the streams alone, of one wave of pieces (on eight threads) and of several (on two), of
/// several blocks and beside adapters; the ratio is then exactly 1.
#[test]
fn the_first_step_goes_back_from_passes_made_before() {
    let adapters = || World::with(92, |config| (config.lora_rank, config.lora_alpha) = (2, 8.0));
    let plain = || World::new(91);
    let cases: [(World, Keep, usize); 5] = [
        (plain(), Keep::All, 0),
        (plain(), Keep::Inputs, 0),
        (plain(), Keep::All, 5),
        (World::wide(93), Keep::Inputs, 0),
        (adapters(), Keep::All, 0),
    ];
    for (world, keep, micro_batch_tokens) in cases {
        let mut world = of_six(world, keep, micro_batch_tokens);
        let rollouts = world.rollouts(12, share_of(TokenId(3)));
        for n_threads in [2, 8] {
            pool(n_threads).install(|| check(&world, &rollouts, n_threads));
        }
    }
}

fn check(world: &World, rollouts: &[ScoredRollout], n_threads: usize) {
    let (experience, [policy, value], first) = begin(world, rollouts);
    let (models, config) = (&world.models, &world.config);
    let n_pieces = MicroBatches::of(&experience.episodes, &first, Budget::of(models, config)).pieces().len();
    assert!(n_pieces > 2, "{n_pieces} pieces are several waves on two threads");
    assert_eq!([policy.len(), value.len()], [n_pieces.min(n_threads); 2], "as many pieces as run at once");
    assert!(policy.take(&[usize::MAX]).is_none(), "another piece is not what it asked for");
    let minibatch = Minibatch::new(&experience, &first, Aggregation::TokenMean);
    let pace = &mut || ControlFlow::Continue(());
    let mut gradients = |policy: &Kept, value: &Kept| {
        let (of_policy, tally) = minibatch.policy_gradients(models, config, policy, Gradients::new(), pace).unwrap();
        let (of_value, _) = minibatch.value_gradients(models, config, value, Gradients::new(), pace).unwrap();
        assert_eq!((tally.ratio_max, tally.approx_kl_k3()), (1.0, 0.0), "cut as the step cuts, ℓ is ℓ_old");
        [of_policy, of_value]
    };
    let spared = gradients(&policy, &value);
    assert_eq!([policy.len(), value.len()], [0, 0], "the step has taken all");
    let again = gradients(&Kept::default(), &Kept::default());
    for (spared, again) in spared.iter().zip(&again) {
        assert_eq!(largest_difference(spared, again), 0.0);
    }
}

/// Goal: a minibatch of which not all train is cut otherwise, and what was kept for another cut does not wait beside its passes. Method:
/// one episode of it that another policy drew.
#[test]
fn nothing_is_kept_where_some_of_the_minibatch_do_not_train() {
    let mut world = of_six(World::new(94), Keep::All, 0);
    let mut rollouts = world.rollouts(12, share_of(TokenId(3)));
    let (_, kept, first) = begin(&world, &rollouts);
    assert!(kept.iter().all(|kept| kept.len() > 0));
    let strange = rollouts.remove(first[2]);
    rollouts.insert(first[2], World::redrawn(strange, |token| token.behavior.0 -= 5.0));
    let (experience, [policy, value], _) = begin(&world, &rollouts);
    assert!(!experience.is_kept(first[2]) && experience.is_kept(first[0]));
    assert_eq!([policy.len(), value.len()], [0, 0]);
}

/// Goal: numbers of episodes that no longer mean the same name nobody's passes. Method: a value model that chokes on one token, so that
/// some episodes leave and the others move up.
#[test]
fn nothing_is_kept_where_episodes_were_taken_out() {
    let mut world = of_six(World::new(91), Keep::All, 0);
    let rollouts = world.rollouts(12, share_of(TokenId(3)));
    let has = |rollout: &Rollout, id: TokenId| {
        rollout.prompt.contains(&id) || rollout.response.iter().any(|token| token.id == id)
    };
    let n_with = |id: u32| rollouts.iter().filter(|scored| has(scored.rollout(), TokenId(id))).count();
    let rarest = (0..VOCAB as u32).filter(|id| n_with(*id) > 0).min_by_key(|id| n_with(*id)).unwrap();
    let (n, n_broken) = (rollouts.len(), n_with(rarest));
    let table = &world.models.value.parameters()[TOKEN_EMBEDDING];
    let mut numbers = table.as_detached_tensor().to_vec2::<f32>().unwrap();
    numbers[rarest as usize].fill(f32::NAN);
    table.set(&Tensor::new(numbers, &Device::Cpu).unwrap()).unwrap();
    let (experience, [policy, value], _) = begin(&world, &rollouts);
    // A last token that chokes is never read.
    assert!((1..=n_broken).contains(&experience.broken.len()) && n_broken < n);
    assert_eq!(experience.episodes.len(), n - experience.broken.len());
    assert_eq!([policy.len(), value.len()], [0, 0]);
}
