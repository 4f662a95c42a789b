//! 11 and 12: the ranking loss, the scale of scores, ensembles.

use reward::{
    ensemble::{Combination, ensemble},
    normalization::Normalization,
    ranking::{PairNormaliser, RankingOptions, ranking_batch_loss},
};

use super::numbers::Case;

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
