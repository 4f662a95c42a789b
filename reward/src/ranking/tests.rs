use super::{RankingOptions, ranking_batch_loss, ranking_loss, sigmoid, softplus};

fn options() -> RankingOptions {
    RankingOptions { label_smoothing: 0.1, margin_per_rank: 0.3, center_coef: 0.02, ..RankingOptions::default() }
}

/// Goal: the gradient is the derivative of the loss. Method: central differences over every score.
#[test]
fn gradient_is_the_finite_difference() {
    let (scores, ranks) = ([0.3, -1.2, 2.0, 0.7, 0.7], [2, 4, 1, 2, 3]);
    let analytic = ranking_loss(&scores, &ranks, &options()).grad_scores;
    for (i, gradient) in analytic.iter().enumerate() {
        let at = |delta: f64| {
            let mut moved = scores;
            moved[i] += delta;
            ranking_loss(&moved, &ranks, &options()).loss
        };
        let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
        assert!((numeric - gradient).abs() < 1e-8, "score {i}: {numeric} against {gradient}");
    }
}

#[test]
fn a_shift_of_all_scores_changes_nothing_without_centring() {
    let plain = RankingOptions::default();
    let a = ranking_loss(&[0.1, 0.5, -2.0], &[1, 3, 2], &plain);
    let b = ranking_loss(&[7.1, 7.5, 5.0], &[1, 3, 2], &plain);
    assert!((a.loss - b.loss).abs() < 1e-12);
    assert!(a.grad_scores.iter().sum::<f64>().abs() < 1e-12, "pairs pull in opposite directions");
}

#[test]
fn ties_are_dropped_and_a_prompt_of_ties_is_not_counted() {
    let plain = RankingOptions::default();
    let tied = ranking_loss(&[3.0, -1.0], &[1, 1], &plain);
    assert_eq!((tied.loss, tied.n_pairs, tied.grad_scores), (0.0, 0, vec![0.0, 0.0]));
    let alone = ranking_batch_loss(&[vec![0.2, 0.1]], &[vec![1, 2]], &plain);
    let beside = ranking_batch_loss(&[vec![0.2, 0.1], vec![9.0, 9.5]], &[vec![1, 2], vec![1, 1]], &plain);
    assert_eq!(alone.loss, beside.loss);
    assert_eq!(beside.n_prompts, 1);
}

#[test]
fn equal_scores_count_as_wrong() {
    let result = ranking_loss(&[1.0, 1.0, 0.0], &[1, 2, 3], &RankingOptions::default());
    assert_eq!((result.n_pairs, result.n_correct), (3, 2));
}

#[test]
fn huge_gaps_stay_finite() {
    assert_eq!(softplus(1000.0), 1000.0);
    assert_eq!(softplus(-1000.0), 0.0);
    assert_eq!((sigmoid(-1000.0), sigmoid(1000.0)), (0.0, 1.0));
    let result = ranking_loss(&[-2000.0, 2000.0], &[1, 2], &RankingOptions::default());
    assert_eq!((result.loss, result.grad_scores), (4000.0, vec![-1.0, 1.0]));
}
