use std::ops::ControlFlow;

use policy::{TokenId, optimizer::Gradients, sequence_batch::Sequence, sft};

use super::{Kept, LINEAGE, Round, experience, largest_difference, run};
use crate::{
    error::PpoError,
    loss::Aggregation,
    test_world::{World, bytes_of, share_of},
    update::{
        pretraining::{PretrainingTexts, PtxStep, mix},
        pretraining_examples,
        step::Minibatch,
    },
};

/// Counting upwards: a language that the rewards of these tests know nothing of.
fn texts() -> Vec<Sequence> {
    let documents: Vec<Vec<TokenId>> =
        (0..7).map(|start| (0..9).map(|i| TokenId(1 + (start + i) % 10)).collect()).collect();
    pretraining_examples(&documents, 6)
}

fn world(seed: u64, ptx: &str) -> World {
    let mut world = World::new(seed);
    world.texts = texts();
    (world.config.ptx, world.config.ptx_examples, world.config.ptx_tokens) = (ptx.to_string(), 2, 6);
    world
}

#[test]
fn long_documents_are_cut_and_a_lone_token_is_no_example() {
    let document: Vec<TokenId> = (0..7).map(TokenId).collect();
    let examples = pretraining_examples(&[document, vec![TokenId(1)], Vec::new()], 3);
    let lengths: Vec<usize> = examples.iter().map(|e| e.tokens.len()).collect();
    assert_eq!(lengths, vec![3, 3], "the seventh token is alone");
    assert!(examples.iter().all(|e| e.prompt_len == 1));
}

/// Goal: what measures is never learnt from, is enough to say something, and stays the same. Method: texts of many lengths, from
/// those that have nothing to spare on.
#[test]
fn the_end_of_a_text_is_held_out_where_there_is_enough_of_it() {
    let document: Vec<TokenId> = (0..4000).map(TokenId).collect();
    let all = pretraining_examples(&[document], 2);
    for (n, n_measured, is_held_out) in [
        (0, 0, false),
        (3, 3, false),
        (15, 8, false),
        (16, 8, true),
        (160, 10, true),
        (1024, 64, true),
        (2000, 64, true),
    ] {
        let texts = PretrainingTexts::split(&all[..n]);
        assert_eq!((texts.measured.len(), texts.is_held_out), (n_measured, is_held_out), "{n}");
        match is_held_out {
            true => assert_eq!([&*texts.learnt, &*texts.measured].concat(), all[..n]),
            false => assert_eq!((&*texts.learnt, &*texts.measured), (&all[..n], &all[..n_measured])),
        }
    }
}

/// Goal: "auto" makes both gradients equally long once, and never again. Method: two rounds; the first step of the first
/// has ratio 1, the weight stays, the ratio does not.
#[test]
fn the_weight_of_the_text_is_measured_at_the_first_step_and_kept() {
    let mut world = world(21, "auto");
    world.config.policy_learning_rate = 1e-3;
    world.config.minibatch = 32;
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    let first = run(&mut world, &rollouts, 0).stats;
    assert!((first.ptx_norm_ratio - 1.0).abs() < 1e-6, "{}", first.ptx_norm_ratio);
    assert!(first.ptx_grad_norm > 0.0 && first.ptx_ppo_grad_norm > 0.0 && first.ptx_loss > 0.0);
    assert_eq!(world.models.control.ptx_coef, Some(first.ptx_coef));
    let rollouts = world.rollouts(32, share_of(TokenId(3)));
    let second = run(&mut world, &rollouts, 1).stats;
    assert_eq!(second.ptx_coef, first.ptx_coef);
    assert!((second.ptx_norm_ratio - 1.0).abs() > 1e-6);
    assert_eq!(world.models.control.ptx_drawn, 2 * 32 * 2);
}

/// Goal: threads change no bit of the text's gradient. Method: more texts than any number of lanes takes at once, in pools that have
/// different ones.
#[test]
fn the_number_of_threads_does_not_cut_the_texts() {
    let gradient_of = |n_threads: usize| {
        let mut world = world(26, "fixed");
        (world.config.micro_batch_tokens, world.config.ptx_examples) = (12, 64);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        let mut gradients = Gradients::new();
        let World { models, texts, config, .. } = &mut world;
        let pace = || ControlFlow::Continue(());
        let step = pool.install(|| mix(&mut gradients, models, texts, config, 1, &mut { pace })).unwrap().unwrap();
        (step, gradients)
    };
    let (one_step, one) = gradient_of(2);
    for n_threads in [3, 4, 5] {
        let (step, gradients) = gradient_of(n_threads);
        assert_eq!((step.nll.to_bits(), largest_difference(&one, &gradients)), (one_step.nll.to_bits(), 0.0));
    }
}

/// Goal: the step's gradient is g_ppo + γ·g_ptx, however both are cut. Method: the same sum from the whole batch of texts.
#[test]
fn both_gradients_are_added_whatever_the_pieces() {
    for tokens in [1, 40, 4096] {
        let mut world = world(22, "fixed");
        (world.config.micro_batch_tokens, world.config.ptx_coef) = (tokens, 0.5);
        let n = world.texts.len();
        world.config.ptx_examples = n;
        let rollouts = world.rollouts(4, share_of(TokenId(3)));
        let experience = experience(&world, &rollouts);
        let minibatch = Minibatch::new(&experience, &[0, 1, 2, 3], Aggregation::TokenMean);
        let pace = &mut || ControlFlow::Continue(());
        let mut mixed = minibatch
            .policy_gradients(&world.models, &world.config, &Kept::default(), Gradients::new(), pace)
            .unwrap()
            .0;
        let mut expected: Gradients = mixed.clone();
        // One pass over the texts is every text once.
        let step = mix(&mut mixed, &mut world.models, &world.texts, &world.config, 1, pace).unwrap().unwrap();
        let (nll, mut whole) = sft::loss_and_gradients(&world.models.policy, &world.texts, 10_000).unwrap();
        assert!((step.nll - nll).abs() < 1e-5);
        whole.scale(0.5).unwrap();
        expected.merge(&whole).unwrap();
        assert!(largest_difference(&expected, &mixed) < 1e-5, "at micro-batches of {tokens} tokens");
    }
}

#[test]
fn every_text_comes_once_a_pass_and_the_order_goes_on_where_it_stopped() {
    let draw = |n_at_once: usize, n_times: usize| {
        let mut world = world(23, "fixed");
        world.config.ptx_examples = n_at_once;
        let mut drawn = Vec::new();
        for _ in 0..n_times {
            // A process that ended and began again has nothing but the numbers.
            let saved = world.models.control.numbers();
            world.models.control = crate::control::ControlState::from_numbers(&saved);
            let texts = world.texts.clone();
            let examples =
                super::super::pretraining::next_examples(&texts, &mut world.models.control, &world.config, 1);
            drawn.extend(examples.into_iter().map(|e| texts.iter().position(|t| *t == e).unwrap()));
        }
        drawn
    };
    let n = texts().len();
    let (pieces, whole) = (draw(2, n), draw(2 * n, 1));
    assert_eq!(pieces, whole);
    for pass in whole.chunks(n) {
        let mut sorted = pass.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..n).collect::<Vec<_>>());
    }
    assert_ne!(whole[..n], whole[n..], "another order in the next pass");
}

#[test]
fn an_interrupted_round_gives_its_texts_back() {
    let mut world = world(24, "auto");
    // One episode a piece: 24 waves of experience, then 4 of gradients and 4 of text, so the patience ends behind the text.
    world.config.micro_batch_tokens = 1;
    let rollouts = world.rollouts(16, share_of(TokenId(3)));
    let round = Round { config: &world.config, update: 0, lineage: &LINEAGE, pretraining: &world.texts };
    let mut patience = 34;
    let mut pace = || {
        patience -= 1;
        if patience == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let before = bytes_of(world.models.policy.parameters());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let result = pool.install(|| round.run(&mut world.models, &rollouts, &mut || pace()));
    assert!(matches!(result, Err(PpoError::Interrupted)));
    assert_eq!(bytes_of(world.models.policy.parameters()), before);
    assert_eq!(world.models.control, crate::control::ControlState::default());
}

/// Goal: text holds what the reward does not ask for. Method: the same rounds for a reward that fights the text, with and
/// without it, and the loss on the text at the end.
#[test]
fn text_in_every_step_keeps_the_language() {
    let nll_after = |ptx: &str| {
        let mut world = world(25, ptx);
        world.config.policy_learning_rate = 5e-3;
        (world.config.warmup_updates, world.config.stop_kl, world.config.skip_kl) = (0, 1.0, 10.0);
        for update in 0..8 {
            let rollouts = world.rollouts(32, share_of(TokenId(3)));
            run(&mut world, &rollouts, update);
        }
        sft::mean_nll(&world.models.policy, &world.texts, 1000).unwrap()
    };
    let (without, with) = (nll_after("off"), nll_after("auto"));
    assert!(with < without - 0.2, "with {with}, without {without}");
}

#[test]
fn the_ratio_of_norms_is_that_of_what_is_added() {
    let step = PtxStep { nll: 1.0, ppo_norm: 2.0, ptx_norm: 3.0, coef: 0.5 };
    assert_eq!((step.norm_ratio(), PtxStep::default().norm_ratio()), (0.75, 0.0));
}
