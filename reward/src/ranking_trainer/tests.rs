use candle_core::{Device, Tensor};
use policy::{architecture::Shape, transformer::random_checkpoint};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn model(seed: u64) -> ScalarModel {
    let checkpoint = random_checkpoint(&Shape::llama(14, 32, 2, 4, 2, 48), seed).unwrap();
    ScalarModel::from_policy(&checkpoint, seed, &Device::Cpu).unwrap()
}

/// Answers are better the more often they hold token 5; the prompt says nothing.
fn rankings(n: usize, seed: u64) -> Vec<Ranking> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n)
        .map(|_| {
            let prompt = vec![TokenId(rng.random_range(6..13))];
            let k = rng.random_range(4..7);
            let responses: Vec<Vec<TokenId>> = (0..k)
                .map(|_| {
                    let length = rng.random_range(2..6);
                    let mut answer: Vec<TokenId> = (0..length).map(|_| TokenId(rng.random_range(4..7))).collect();
                    answer.push(TokenId(0));
                    answer
                })
                .collect();
            let fives = |r: &Vec<TokenId>| r.iter().filter(|t| t.0 == 5).count() as u32;
            let ranks: Vec<u32> = responses.iter().map(|r| 10 - fives(r)).collect();
            Ranking::new(&prompt, &responses, &ranks)
        })
        .collect()
}

#[test]
fn a_reward_model_learns_what_was_preferred_and_finds_it_in_new_answers() {
    let (model, held_out) = (model(1), rankings(60, 2));
    let before = evaluate(&model, &held_out, &RankingOptions::default()).unwrap();
    let options = RankingTrainOptions { batch: 16, learning_rate: 4e-3, epochs: 2, ..RankingTrainOptions::default() };
    train(&model, &rankings(300, 3), &options, |_| ControlFlow::Continue(())).unwrap();
    let after = evaluate(&model, &held_out, &RankingOptions::default()).unwrap();
    assert!(before.accuracy() < 0.75 && after.accuracy() > 0.95, "{before:?} {after:?}");
    assert!(after.loss < before.loss);
}

/// Goal: the gradient belongs to the loss that is reported. Method: a central difference along the head's bias and one
/// weight; the bias shifts all scores and must have gradient 0.
#[test]
fn the_gradient_is_that_of_the_reported_loss() {
    let (model, rankings) = (model(4), rankings(5, 5));
    let batch: Vec<&Ranking> = rankings.iter().collect();
    let options = RankingTrainOptions::default();
    let (report, gradients) = loss_and_gradients(&model, &batch, &options).unwrap();
    assert!((report.loss - evaluate(&model, &rankings, &options.loss).unwrap().loss).abs() < 1e-6);
    let bias = gradients.get("reward_head.bias").unwrap().to_vec().unwrap()[0];
    assert!(bias.abs() < 1e-6, "{bias}");
    let head = &model.parameters()["reward_head.weight"];
    let start = head.as_detached_tensor().copy().unwrap();
    let slope = gradients.get("reward_head.weight").unwrap().to_vec().unwrap()[3];
    let at = |by: f64| {
        let mut direction = vec![0f32; 32];
        direction[3] = by as f32;
        head.set(&(&start + Tensor::from_vec(direction, (1, 32), &Device::Cpu).unwrap()).unwrap()).unwrap();
        evaluate(&model, &rankings, &options.loss).unwrap().loss
    };
    let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
    assert!((numeric - f64::from(slope)).abs() < 1e-3 * numeric.abs().max(0.1), "{numeric} {slope}");
}

#[test]
fn how_a_batch_is_cut_changes_nothing() {
    let (model, rankings) = (model(6), rankings(6, 7));
    let batch: Vec<&Ranking> = rankings.iter().collect();
    let gradient = |micro_batch_tokens| {
        let options = RankingTrainOptions { micro_batch_tokens, ..RankingTrainOptions::default() };
        let (report, gradients) = loss_and_gradients(&model, &batch, &options).unwrap();
        let gradient = gradients.get("blk.0.attn_q.weight").unwrap().to_vec().unwrap();
        (report.loss, gradient)
    };
    let (whole, cut) = (gradient(1 << 20), gradient(30));
    assert!((whole.0 - cut.0).abs() < 1e-6);
    assert!(whole.1.iter().zip(&cut.1).all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn a_prompt_whose_answers_all_tie_teaches_nothing() {
    let mut tied = rankings(1, 8);
    tied[0].ranks.fill(1);
    let batch: Vec<&Ranking> = tied.iter().collect();
    let (report, gradients) = loss_and_gradients(&model(9), &batch, &RankingTrainOptions::default()).unwrap();
    assert_eq!((report.n_prompts, report.n_pairs), (0, 0));
    assert_eq!(gradients.global_norm().unwrap(), 0.0);
}

/// Goal: heads on one trunk all learn, and not the same. Method: three heads, held-out answers: each head orders them well,
/// and their outputs are no copies of each other.
#[test]
fn every_head_of_an_ensemble_learns_and_none_is_a_copy() {
    let checkpoint = random_checkpoint(&Shape::llama(14, 32, 2, 4, 2, 48), 1).unwrap();
    let model = ScalarModel::from_policy_with_heads(&checkpoint, 3, 1, &Device::Cpu).unwrap();
    let options = RankingTrainOptions { batch: 16, learning_rate: 4e-3, epochs: 2, ..RankingTrainOptions::default() };
    train(&model, &rankings(300, 3), &options, |_| ControlFlow::Continue(())).unwrap();
    let held_out = rankings(60, 2);
    let sequences: Vec<Vec<TokenId>> = held_out.iter().flat_map(|r| r.sequences.iter().cloned()).collect();
    let scores = crate::reward_model::member_scores(&model, &sequences).unwrap();
    let column = |head: usize| scores.iter().map(|row| row[head]).collect::<Vec<f64>>();
    for head in 0..3 {
        let (own, mut at, mut report) = (column(head), 0, RankingReport::default());
        for ranking in &held_out {
            report.add(&ranking_loss(&own[at..at + ranking.ranks.len()], &ranking.ranks, &options.loss));
            at += ranking.ranks.len();
        }
        assert!(report.accuracy() > 0.9, "head {head}: {}", report.accuracy());
    }
    let apart = |a: usize, b: usize| column(a).iter().zip(column(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart(0, 1) > 0.05 && apart(1, 2) > 0.05, "{} {}", apart(0, 1), apart(1, 2));
    assert!((evaluate(&model, &held_out, &options.loss).unwrap().accuracy()) > 0.9);
}

/// Goal: an epoch is every ranking once, whatever the batch. Method: the pairs of each step add up to those of the data.
#[test]
fn a_batch_takes_no_ranking_twice_and_ends_with_its_epoch() {
    let rankings = rankings(5, 8);
    let n_pairs = evaluate(&model(9), &rankings, &RankingOptions::default()).unwrap().n_pairs;
    for (batch, n_batches) in [(2, 3), (5, 1), (1000, 1), (usize::MAX, 1)] {
        let options = RankingTrainOptions { epochs: 2, batch, ..RankingTrainOptions::default() };
        let mut steps = Vec::new();
        let progress = |now: &RankingProgress| {
            steps.push(now.report.n_pairs);
            ControlFlow::Continue(())
        };
        train(&model(9), &rankings, &options, progress).unwrap();
        assert_eq!(steps.len(), 2 * n_batches);
        assert!(steps.chunks(n_batches).all(|epoch| epoch.iter().sum::<usize>() == n_pairs), "{batch}: {steps:?}");
    }
}

/// Goal: an interrupted run leaves whole steps. Method: stopped within its second step, against one that ends after its first.
#[test]
fn a_run_that_is_stopped_gives_up_the_step_it_is_in() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (rankings, options) =
        (rankings(6, 8), RankingTrainOptions { epochs: 3, batch: 3, micro_batch_tokens: 1, ..Default::default() });
    let scores_after = |is_stopped: IsStopped<'_>, n_steps: usize| {
        let (model, mut n_told) = (model(9), 0);
        let progress = |now: &RankingProgress, _: &AdamW| {
            n_told = now.step;
            if now.step == n_steps { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        train_until(&model, &rankings, &options, None, is_stopped, progress).unwrap();
        let sequences: Vec<Vec<TokenId>> = rankings.iter().flat_map(|ranking| ranking.sequences.clone()).collect();
        (n_told, raw_scores(&model, &sequences).unwrap())
    };
    // A micro-batch holds a ranking at least: the fifth question comes within the second step.
    let asked = AtomicUsize::new(0);
    let stopped = scores_after(&|| asked.fetch_add(1, Ordering::Relaxed) >= 4, usize::MAX);
    assert_eq!(stopped, scores_after(&|| false, 1));
    assert_ne!(stopped.1, scores_after(&|| false, 2).1, "a step changes the scores");
}

/// Goal: a run that was left goes on bit for bit. Method: one run to its end; the same left after each of its steps, through
/// bytes, into another model.
#[test]
fn a_run_goes_on_from_any_step_bit_for_bit() {
    use policy::optimizer::{read_run, write_run};
    let (rankings, options) =
        (rankings(7, 8), RankingTrainOptions { epochs: 2, batch: 3, learning_rate: 1e-3, ..Default::default() });
    let sequences: Vec<Vec<TokenId>> = rankings.iter().flat_map(|ranking| ranking.sequences.clone()).collect();
    let run = |model: &ScalarModel, resumed, until: usize| {
        let stop = |now: &RankingProgress, _: &AdamW| match now.step == until {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let adam = train_until(model, &rankings, &options, resumed, &|| false, stop).unwrap();
        (raw_scores(model, &sequences).unwrap(), adam)
    };
    let io_error = |source| ModelError::Io { path: "bytes".into(), source };
    let (whole, _) = run(&model(9), None, usize::MAX);
    for step in 1..=6 {
        let left = model(9);
        let (scores, adam) = run(&left, None, step);
        assert_eq!(scores == whole, step == 6, "every step changes the scores");
        let mut bytes = Vec::new();
        write_run(&mut bytes, left.parameters(), adam.state(), &io_error).unwrap();
        let other = model(9);
        let adam = read_run(&mut bytes.as_slice(), other.parameters(), &io_error).unwrap();
        assert_eq!(run(&other, Some(Resumed { step, adam }), usize::MAX).0, whole, "left after step {step}");
    }
}

#[test]
fn a_run_ends_at_its_first_loss_that_is_not_finite() {
    let options =
        RankingTrainOptions { epochs: 50, batch: 4, learning_rate: f64::NAN, ..RankingTrainOptions::default() };
    let ended = train(&model(9), &rankings(4, 8), &options, |now| {
        assert!(now.report.loss.is_finite() && now.grad_norm.is_finite());
        ControlFlow::Continue(())
    });
    assert!(matches!(ended, Err(ModelError::Diverged { step: 2, n_steps: 50, .. })), "{ended:?}");
}

/// Goal: each pair asks for its own gap, beside pairs and rankings that ask for that of all. Method: the loss of three rankings in one
/// batch against theirs alone; and two equal gaps of scores, of which the one that is to be larger pulls harder.
#[test]
fn every_ranking_has_the_margin_that_was_given_for_it() {
    let mut rankings = rankings(3, 12);
    (rankings[0].margin, rankings[1].margin) = (Margin::new(0.0), Margin::new(2.5));
    let model = model(13);
    let of_all = RankingOptions { margin_per_rank: 0.5, ..RankingOptions::default() };
    let loss = |rankings: &[Ranking], options: &RankingOptions| evaluate(&model, rankings, options).unwrap().loss;
    let alone = |i: usize, margin_per_rank: f64| {
        let bare = Ranking { margin: None, ..rankings[i].clone() };
        loss(&[bare], &RankingOptions { margin_per_rank, ..of_all })
    };
    let expected = (alone(0, 0.0) + alone(1, 2.5) + alone(2, 0.5)) / 3.0;
    assert!((loss(&rankings, &of_all) - expected).abs() < 1e-12);
    let batch: Vec<&Ranking> = rankings.iter().collect();
    let options = RankingTrainOptions { loss: of_all, ..RankingTrainOptions::default() };
    let (report, _) = loss_and_gradients(&model, &batch, &options).unwrap();
    assert!((report.loss - expected).abs() < 1e-6, "what is trained on is what is measured");
    assert_eq!(report.accuracy(), evaluate(&model, &rankings, &RankingOptions::default()).unwrap().accuracy());
    let pull = |gap: f64| {
        let pair =
            Ranking { margin: Margin::new(gap), ..Ranking::new(&[], &[vec![TokenId(4)], vec![TokenId(5)]], &[1, 2]) };
        let (_, gradients) = loss_and_gradients(&model, &[&pair], &RankingTrainOptions::default()).unwrap();
        gradients.get("reward_head.weight").unwrap().to_vec().unwrap().iter().map(|g| g * g).sum::<f32>()
    };
    assert!(pull(3.0) > pull(1.0) && pull(1.0) > pull(0.0));
}

/// Goal: a model gives the pairs that are far apart the wider gap. Method: two kinds of pairs at two margins, each learnt for long.
#[test]
fn a_model_learns_how_far_apart_answers_are() {
    let pair = |prompt: u32, margin: f64| Ranking {
        margin: Margin::new(margin),
        ..Ranking::new(&[TokenId(prompt)], &[vec![TokenId(4), TokenId(0)], vec![TokenId(5), TokenId(0)]], &[1, 2])
    };
    let (far, near) = (pair(6, 3.0), pair(7, 0.0));
    let model = model(14);
    // Wrong labels bound the gaps, which would grow without end: at one in ten it is ln 9 beyond the margin.
    let loss = RankingOptions { label_smoothing: 0.1, ..RankingOptions::default() };
    let options =
        RankingTrainOptions { batch: 2, learning_rate: 3e-3, epochs: 400, loss, ..RankingTrainOptions::default() };
    train(&model, &[far.clone(), near.clone()], &options, |_| ControlFlow::Continue(())).unwrap();
    let gap = |ranking: &Ranking| {
        let scores = raw_scores(&model, &ranking.sequences).unwrap();
        scores[0] - scores[1]
    };
    let (wide, narrow) = (gap(&far), gap(&near));
    let beyond = 9.0_f64.ln();
    assert!((wide - 3.0 - beyond).abs() < 0.3 && (narrow - beyond).abs() < 0.3, "{wide} {narrow}");
}
