use candle_core::{Device, Var};

use super::*;
use crate::{
    architecture::Shape,
    kernels::Precision,
    optimizer::{read_run, write_run},
    transformer::tests::{batch, tiny, tokens, uneven_checkpoint},
    transformer::{Adapter, LoraShape},
};

fn model() -> CausalLm {
    CausalLm::from_checkpoint(&uneven_checkpoint(&tiny(), 8), &Device::Cpu).unwrap()
}

fn flat(gradients: &Gradients) -> Vec<f32> {
    gradients.iter().flat_map(|(_, g)| g.to_vec().unwrap()).collect()
}

/// Goal: pitfall 32. Method: the gradient of the same batch cut at 1, 2 and 4 sequences, whole, and on two lanes.
#[test]
fn how_a_batch_is_cut_changes_nothing() {
    let (model, sequences) = (model(), batch().sequences);
    let (whole, expected) = loss_and_gradients(&model, &sequences, 1 << 20).unwrap();
    for micro_batch_tokens in [1, 5, 8] {
        let (loss, gradients) = loss_and_gradients(&model, &sequences, micro_batch_tokens).unwrap();
        assert!((loss - whole).abs() < 1e-6);
        let worst = flat(&gradients).iter().zip(flat(&expected)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-6, "{worst}");
    }
    assert!((mean_nll(&model, &sequences, 8).unwrap() - whole).abs() < 1e-5);
}

/// Goal: a large model is worked on as one, however little of it learns: side by side its passes would want memory that no plan has
/// counted. Method: one beyond the border, whole, with an adapter, and frozen.
#[test]
fn an_adapter_does_not_make_a_model_small() {
    let shape = Shape::llama(61_000, 512, 1, 2, 2, 64);
    let adapter = Adapter::new(&shape, LoraShape { rank: 1, alpha: 1.0 }, 1, &Device::Cpu).unwrap();
    let whole = CausalLm::random(&shape, 1, &Device::Cpu).unwrap();
    let frozen = whole.clone().with_precision(Precision::Bf16).frozen().unwrap();
    for model in [whole.clone().with_adapter(adapter), whole, frozen] {
        assert_eq!(cut(&model, &batch().sequences, 1 << 20).len(), 1);
    }
}

#[test]
fn the_loss_is_a_mean_over_tokens_and_not_over_sequences() {
    let (model, sequences) = (model(), batch().sequences);
    let log_probs = model.frozen_log_probs(&batch(), &[1.0; 3]).unwrap().log_probs;
    let mean = -log_probs.iter().map(|&l| f64::from(l)).sum::<f64>() / log_probs.len() as f64;
    assert!((loss_and_gradients(&model, &sequences, 5).unwrap().0 - mean).abs() < 1e-6);
}

#[test]
fn a_model_learns_a_rule_by_heart() {
    let shape = Shape::llama(12, 32, 2, 4, 2, 48);
    let model = CausalLm::random(&shape, 1, &Device::Cpu).unwrap();
    let examples: Vec<Sequence> =
        (0..10).map(|i| Sequence::new(&tokens(&[i, 11]), &tokens(&[(i + 1) % 10, (i + 2) % 10, 10]))).collect();
    let options = SftOptions { epochs: 40, batch: 5, learning_rate: 1e-2, warmup_steps: 4, ..SftOptions::default() };
    let before = mean_nll(&model, &examples, 1024).unwrap();
    let last = train(&model, &examples, &[], &options, |_| ControlFlow::Continue(())).unwrap();
    let after = mean_nll(&model, &examples, 1024).unwrap();
    assert!(before > 2.0 && after < 0.2, "before {before}, after {after}");
    assert_eq!((last.step, last.n_steps), (80, 80));
}

#[test]
fn the_same_seed_trains_the_same_weights_and_another_does_not() {
    let run = |seed| {
        let model = model();
        let options = SftOptions { epochs: 3, batch: 2, learning_rate: 1e-3, seed, ..SftOptions::default() };
        train(&model, &batch().sequences, &[], &options, |_| ControlFlow::Continue(())).unwrap();
        model.parameters()["output_norm.weight"].to_vec1::<f32>().unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn every_example_comes_once_an_epoch_and_the_mix_has_its_share() {
    let (all, mix) = (batch().sequences, vec![Sequence::text(tokens(&[7, 7]))]);
    let options = SftOptions { batch: 4, mix_share: 0.25, ..SftOptions::default() };
    let mut batches = Batches::new(&all, &mix, &options).unwrap();
    assert_eq!(batches.n_steps(2), 2);
    for _ in 0..3 {
        let mut seen = batches.next_batch();
        assert_eq!(seen.pop().unwrap(), mix[0]);
        seen.sort_by_key(|s| s.tokens.len());
        let mut expected = all.clone();
        expected.sort_by_key(|s| s.tokens.len());
        assert_eq!(seen, expected);
    }
}

/// Goal: an epoch is every example once, whatever the batch. Method: three examples in batches that do not divide them, that
/// are larger, and that are absurd; the mix keeps its share of a smaller batch.
#[test]
fn a_batch_takes_no_example_twice_and_ends_with_its_epoch() {
    let (all, mix) = (batch().sequences, vec![Sequence::text(tokens(&[7, 7]))]);
    for (size, share, sizes) in
        [(2, 0.0, vec![2, 1]), (3, 0.0, vec![3]), (1000, 0.0, vec![3]), (usize::MAX, 0.0, vec![3]), (8, 0.5, vec![6])]
    {
        let options = SftOptions { batch: size, mix_share: share, ..SftOptions::default() };
        let mut batches = Batches::new(&all, &mix, &options).unwrap();
        assert_eq!(batches.n_steps(2), 2 * sizes.len());
        for _ in 0..2 {
            let epoch: Vec<Vec<Sequence>> = sizes.iter().map(|_| batches.next_batch()).collect();
            assert_eq!(epoch.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
            for example in &all {
                assert_eq!(epoch.iter().flatten().filter(|one| *one == example).count(), 1, "batch {size}");
            }
        }
    }
}

/// Goal: a run ends where its numbers do, and says why. Method: a rate that breaks every weight with the first step; the model
/// that is broken from then on is not told to learn more slowly.
#[test]
fn a_run_ends_at_its_first_loss_that_is_not_finite() {
    let diverged = |model: &CausalLm| {
        let options = SftOptions { epochs: 50, batch: 3, learning_rate: f64::NAN, ..SftOptions::default() };
        let ended = train(model, &batch().sequences, &[], &options, |now| {
            assert!(now.loss.is_finite() && now.grad_norm.is_finite());
            ControlFlow::Continue(())
        });
        match ended.unwrap_err() {
            ModelError::Diverged { step, n_steps: 50, advice, .. } => (step, advice),
            other => panic!("{other}"),
        }
    };
    let model = model();
    let (step, advice) = diverged(&model);
    assert!(step == 2 && advice.contains("learning rate"), "{step} {advice}");
    let (step, advice) = diverged(&model);
    assert!(step == 1 && !advice.contains("learning rate"), "{step} {advice}");
}

#[test]
fn a_run_that_is_stopped_gives_up_the_step_it_is_in() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let asked = AtomicUsize::new(0);
    // Three micro-batches a step: the fifth question comes within the second step.
    let is_stopped = || asked.fetch_add(1, Ordering::Relaxed) >= 4;
    let options = SftOptions { epochs: 9, batch: 3, micro_batch_tokens: 1, ..SftOptions::default() };
    let progress = |_: &SftProgress, _: &AdamW| ControlFlow::Continue(());
    let ended = train_until(&model(), &batch().sequences, &[], &options, None, &is_stopped, progress);
    let (last, adam) = ended.unwrap();
    assert_eq!((last.step, last.n_steps, adam.state().step), (1, 9, 1));
}

/// Goal: a run that was left goes on bit for bit, the order of the examples and their mix, the rate and the moments included.
/// Method: one run to its end; the same left after each of its steps, through bytes, into another model.
#[test]
fn a_run_goes_on_from_any_step_bit_for_bit() {
    let weights = |model: &CausalLm| -> Vec<Vec<u32>> {
        let of = |var: &Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        model.parameters().values().map(|var| of(var).iter().map(|x| x.to_bits()).collect()).collect()
    };
    let (all, mix) = (batch().sequences, batch().sequences);
    let options = SftOptions { epochs: 3, batch: 2, mix_share: 0.5, learning_rate: 1e-2, ..SftOptions::default() };
    let run = |model: &CausalLm, resumed, until: usize| {
        let stop = |now: &SftProgress, _: &AdamW| match now.step == until {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        train_until(model, &all, &mix, &options, resumed, &|| false, stop).unwrap()
    };
    let whole = model();
    let (end, _) = run(&whole, None, usize::MAX);
    assert!(end.step == end.n_steps && end.n_steps > 4, "{end:?}");
    let io_error = |source| ModelError::Io { path: "bytes".into(), source };
    for step in 1..=end.n_steps {
        let left = model();
        let (_, adam) = run(&left, None, step);
        let mut bytes = Vec::new();
        write_run(&mut bytes, left.parameters(), adam.state(), &io_error).unwrap();
        let other = model();
        let adam = read_run(&mut bytes.as_slice(), other.parameters(), &io_error).unwrap();
        let (last, _) = run(&other, Some(Resumed { step, adam }), usize::MAX);
        assert_eq!((last.step, last.n_tokens), (end.n_steps, end.n_tokens));
        assert_eq!(weights(&other), weights(&whole), "left after step {step}");
        let cut = read_run(&mut &bytes[..bytes.len() - 1], other.parameters(), &io_error);
        assert!(cut.is_err(), "a byte is missing");
    }
    let longer = Resumed { step: end.n_steps + 1, adam: run(&model(), None, 1).1.state().copy().unwrap() };
    let longer = train_until(&model(), &all, &mix, &options, Some(longer), &|| false, |_, _| ControlFlow::Break(()));
    assert!(longer.err().unwrap().to_string().contains("run of"));
}

#[test]
fn progress_can_end_a_run() {
    let stop = |p: &SftProgress| {
        if p.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options = SftOptions { epochs: 9, batch: 1, ..SftOptions::default() };
    assert_eq!(train(&model(), &batch().sequences, &[], &options, stop).unwrap().step, 2);
}

#[test]
fn the_rate_rises_then_falls_to_a_tenth() {
    let schedule = Schedule { peak: 2.0, final_share: 0.1, warmup_steps: 2, n_steps: 10 };
    assert_eq!((schedule.at(0), schedule.at(1), schedule.at(2)), (1.0, 2.0, 2.0));
    assert!((schedule.at(6) - 2.0 * 0.55).abs() < 1e-12);
    assert!((schedule.at(10) - 0.2).abs() < 1e-12);
}
