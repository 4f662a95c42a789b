//! 11 and 12: the ranking loss, the scale of scores, ensembles.

use candle_core::{Device, Tensor};
use policy::{
    TokenId,
    architecture::{Shape, llama},
    scalar_model::{HEAD_BIAS, HEAD_WEIGHT, ScalarModel},
    transformer::random_checkpoint,
};
use reward::{
    ensemble::{Combination, ensemble},
    margin::Margin,
    normalization::Normalization,
    ranking::{PairNormaliser, RankingOptions, ranking_batch_loss},
    ranking_trainer::{Ranking, RankingTrainOptions, loss_and_gradients},
};

use super::{
    numbers::Case,
    said::{LOUD, WIDTH},
};

pub(super) fn ranking_loss(case: &mut Case<'_>) {
    let scores = case.rows("scores");
    let ranks: Vec<Vec<u32>> = case.rows("ranks").iter().map(|r| r.iter().map(|rank| *rank as u32).collect()).collect();
    let options = RankingOptions {
        label_smoothing: case.number("label_smoothing"),
        margin_per_rank: case.number("margin_per_rank"),
        center_coef: case.number("center_coef"),
        normaliser: match case.word("normaliser") {
            "kept_pairs" => PairNormaliser::KeptPairs,
            "choose_k_2" => PairNormaliser::ChooseK2,
            other => panic!("unknown normaliser {other}"),
        },
    };
    let got = ranking_batch_loss(&scores, &ranks, &options);
    case.expect("loss", &[got.loss]);
    case.expect("grad_scores", &got.grad_scores.concat());
    case.expect("pair_accuracy", &[got.pair_accuracy()]);
    case.expect("n_pairs", &[got.n_pairs as f64]);
    by_the_trainer(case, &scores, &ranks, options, None);
    // Given for each ranking in place of one for all.
    let margin = Margin::new(options.margin_per_rank);
    assert!(margin.is_some(), "the file's margins are gaps");
    by_the_trainer(case, &scores, &ranks, RankingOptions { margin_per_rank: 7.0, ..options }, margin);
}

/// The same of a model that gives these scores: each response is one token with a direction of its own, in which the head holds
/// its score. The gradient of the head is that of the scores.
fn by_the_trainer(
    case: &mut Case<'_>,
    scores: &[Vec<f64>],
    ranks: &[Vec<u32>],
    loss: RankingOptions,
    margin: Option<Margin>,
) {
    let model = scorer(&scores.concat());
    let mut next = 0_u32..;
    let mut response = |_: &f64| vec![TokenId(next.next().expect("it never ends"))];
    let mut ranking = |(scores, ranks): (&Vec<f64>, &Vec<u32>)| {
        let sequences = scores.iter().map(&mut response).collect();
        Ranking { sequences, ranks: ranks.clone(), margin }
    };
    let rankings: Vec<Ranking> = scores.iter().zip(ranks).map(&mut ranking).collect();
    let options = RankingTrainOptions { loss, ..RankingTrainOptions::default() };
    let batch: Vec<&Ranking> = rankings.iter().collect();
    let (report, gradients) = loss_and_gradients(&model, &batch, &options).unwrap();
    let head = gradients.get(HEAD_WEIGHT).expect("the head has a gradient").to_vec().unwrap();
    let slopes: Vec<f64> = head[..next.start as usize].iter().copied().map(f64::from).collect();
    case.expect_f32("loss", &[report.loss]);
    case.expect_f32("grad_scores", &slopes);
    case.expect_f32("pair_accuracy", &[report.accuracy()]);
    case.expect_f32("n_pairs", &[report.n_pairs as f64]);
}

/// A model whose token `i` scores `scores[i]`.
fn scorer(scores: &[f64]) -> ScalarModel {
    assert!(scores.len() <= WIDTH, "{} responses want a wider model", scores.len());
    let mut checkpoint = random_checkpoint(&Shape::llama(WIDTH, WIDTH, 1, 1, 1, 8), 0).unwrap();
    let mut put = |name: &str, values: Vec<f32>, dims: &[usize]| {
        checkpoint.tensors.insert(name.to_owned(), Tensor::from_vec(values, dims, &Device::Cpu).unwrap());
    };
    let own_direction = (0..WIDTH * WIDTH).map(|i| if i / WIDTH == i % WIDTH { LOUD } else { 0.0 }).collect();
    let mut head = vec![0.0; WIDTH];
    head.iter_mut().zip(scores).for_each(|(weight, score)| *weight = *score as f32);
    put(llama::TOKEN_EMBEDDING, own_direction, &[WIDTH, WIDTH]);
    put(llama::OUTPUT_NORM, vec![1.0 / (WIDTH as f32).sqrt(); WIDTH], &[WIDTH]);
    put(&llama::block(0, "attn_output"), vec![0.0; WIDTH * WIDTH], &[WIDTH, WIDTH]);
    put(&llama::block(0, "ffn_down"), vec![0.0; WIDTH * 8], &[WIDTH, 8]);
    put(HEAD_WEIGHT, head, &[1, WIDTH]);
    put(HEAD_BIAS, vec![0.0], &[1]);
    ScalarModel::from_checkpoint(&checkpoint, &Device::Cpu).unwrap()
}

pub(super) fn normalization(case: &mut Case<'_>) {
    if case.has("member_scores") {
        return ensembles(case);
    }
    let demonstrations = case.flat("demo_scores");
    // The two cases have the same inputs: the one that leaves the scale alone is InstructGPT's.
    let centred = Normalization::centred(&demonstrations).expect("demonstrations have a mean");
    let standardised = Normalization::standardised(&demonstrations).expect("demonstrations vary");
    let map = if case.output("gain") == 1.0 { centred } else { standardised };
    let normalised = |raw: &[f64]| raw.iter().map(|r| map.apply(*r)).collect::<Vec<f64>>();
    case.expect("gain", &[map.gain]);
    case.expect("bias", &[map.bias]);
    case.expect("normalised", &normalised(&case.flat("scores")));
    let after = normalised(&demonstrations);
    case.expect("demo_mean_after", &[after.iter().sum::<f64>() / after.len() as f64]);
}

fn ensembles(case: &mut Case<'_>) {
    let members = case.rows("member_scores");
    let lambda = case.number("lambda");
    let scores: Vec<_> = (0..members[0].len())
        .map(|i| ensemble(&members.iter().map(|m| m[i]).collect::<Vec<f64>>()).expect("the ensemble has members"))
        .collect();
    case.expect("mean", &scores.iter().map(|s| s.mean).collect::<Vec<f64>>());
    let combined = |combination: Combination| scores.iter().map(|s| combination.of(s)).collect::<Vec<f64>>();
    case.expect("wco", &combined(Combination::Worst));
    case.expect("variance", &scores.iter().map(|s| s.variance).collect::<Vec<f64>>());
    case.expect("uwo", &combined(Combination::UncertaintyWeighted { lambda }));
}
