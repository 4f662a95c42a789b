use policy::TokenId;

use super::{super::AdvantageEstimator, Episode, Experience, episode, from_passes_with};
use crate::{group, kl::KlEstimator, loss::KlPenalty, masked};

/// Five answers: three to one prompt, one that is alone, one more to the first prompt; of one or two tokens.
fn episodes() -> Vec<Episode> {
    let mut episodes: Vec<Episode> = [(2, 1.0), (1, 0.0), (2, -0.5), (1, 5.0), (1, 1.5)]
        .into_iter()
        .enumerate()
        .map(|(i, (n_tokens, score))| episode(i, n_tokens, score, true))
        .collect();
    episodes[3].sequence.tokens[0] = TokenId(9);
    episodes
}

const OLD: [f64; 7] = [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0];
const REFERENCE: [f64; 7] = [-1.1, -1.0, -1.0, -1.2, -1.0, -1.0, -0.9];

fn experience(estimator: &str) -> Experience {
    from_passes_with(episodes(), [&OLD, &REFERENCE, &[0.3; 7]], |config| {
        config.advantage_estimator = estimator.to_string();
    })
}

/// Returns with the KL penalty of the whole answer taken off, without the lone one. β is 0.1, scores are clipped at 2.
const RETURNS: [f64; 4] = [0.99, 0.0, -0.52, 1.51];

fn on_tokens(advantages: &[f64]) -> Vec<f64> {
    let [a, b, c, e] = advantages.try_into().unwrap();
    vec![a, a, b, c, c, 0.0, e]
}

fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{got:?} instead of {expected:?}");
}

#[test]
fn answers_to_one_prompt_are_compared_and_a_lone_one_does_not_train() {
    let plain = [("rloo", group::rloo(&RETURNS, &[0; 4])), ("dr_grpo", group::dr_grpo(&RETURNS, &[0; 4]))];
    for (estimator, advantages) in plain.into_iter().chain([("grpo", group::grpo(&RETURNS, &[0; 4], 1e-4))]) {
        let got = experience(estimator);
        assert_eq!(got.groups, vec![0, 0, 0, 1, 0]);
        assert_eq!(got.is_alone, vec![false, false, false, true, false], "{estimator}");
        assert_close(&got.whitened, &on_tokens(&advantages));
        let trains: Vec<bool> = (0..5).map(|i| got.is_kept(i)).collect();
        assert_eq!(trains, vec![true, true, true, false, true]);
        assert_eq!(got.importance().unwrap().weights[5], 0.0, "its score of 5 reaches no gradient");
    }
}

#[test]
fn the_baseline_of_reinforce_pp_is_whitened_over_what_trains() {
    let got = experience("reinforce_pp_baseline");
    let advantages = on_tokens(&group::dr_grpo(&RETURNS, &[0; 4]));
    let trains = [true, true, true, true, true, false, true];
    assert_close(&got.whitened, &masked::whiten(&advantages, &trains, masked::Whitening::default()));
}

/// Goal: with the penalty in the loss, groups compare bare scores, as the sources do. Method: golden file 13, through what makes an
/// experience, beside a reference that is far away.
#[test]
fn with_the_penalty_in_the_loss_bare_scores_are_compared() {
    let advantages = |estimator: &str, scores: &[f64], groups: &[u32], lengths: &[usize]| {
        let answers = scores.iter().zip(groups).zip(lengths).enumerate();
        let episodes = answers.map(|(i, ((score, group), n_tokens))| {
            let mut answer = episode(i, *n_tokens, *score, true);
            answer.sequence.tokens[0] = TokenId(*group);
            answer
        });
        let n: usize = lengths.iter().sum();
        let passes = [&vec![-1.0; n][..], &vec![-4.0; n], &vec![0.0; n]];
        let got = from_passes_with(episodes.collect(), passes, |config| {
            (config.advantage_estimator, config.kl_in) = (estimator.to_string(), "loss".to_string());
            config.kl_estimator = "k3".to_string();
        });
        assert_eq!(got.kl_penalty, Some(KlPenalty { estimator: KlEstimator::K3, coef: 0.1 }));
        got.whitened
    };
    let scores = [1.0031, 1.3066, -0.4831, -1.3166, 0.7246, 0.3811, 1.6486, -1.6322, -1.6322, -1.1029];
    let groups = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3];
    let grpo = [
        0.7058877815907567,
        0.9505622239306317,
        -0.49225111859218373,
        -1.164198886929205,
        -0.295135574670972,
        -0.819058416528744,
        1.114193991199716,
        0.0,
        0.0,
        0.0,
    ];
    assert_close(&advantages("grpo", &scores, &groups, &[1; 10]), &grpo);
    let dr_grpo = [0.8756, 1.1791, -0.6106, -1.4441, -0.1935, -0.537, 0.7305, 0.0, 0.0, 0.0];
    assert_close(&advantages("dr_grpo", &scores, &groups, &[1; 10]), &dr_grpo);
    let baseline =
        advantages("reinforce_pp_baseline", &[1.8375, -0.4719, 0.1216, -1.8429], &[0, 0, 1, 1], &[4, 2, 3, 5]);
    let per_answer = [1.0667897875559917, -1.1133024129727584, 0.9039955985973085, -0.950508224014075];
    assert_close(&baseline, &group::per_token(&per_answer, &[4, 2, 3, 5]));
}

#[test]
fn reinforce_pp_needs_no_group_and_no_value() {
    let got = experience("reinforce_pp");
    assert!(got.is_alone.iter().all(|alone| !alone));
    let to_go = [0.99, 1.0, 0.0, -0.52, -0.5, 2.0, 1.51];
    assert_close(&got.returns, &to_go);
    assert_close(&got.whitened, &masked::whiten(&to_go, &[true; 7], masked::Whitening::default()));
}

#[test]
fn only_gae_asks_the_value_model() {
    let words = ["gae", "rloo", "grpo", "dr_grpo", "reinforce_pp", "reinforce_pp_baseline"];
    let needs_values = words.map(|word| {
        let mut config = config::Config::default().ppo;
        config.advantage_estimator = word.to_string();
        AdvantageEstimator::of(&config).needs_values()
    });
    assert_eq!(needs_values, [true, false, false, false, false, false]);
    let gae = experience("gae");
    assert_close(&gae.returns, &[0.99, 1.0, 0.0, -0.52, -0.5, 2.0, 1.51]);
    assert_close(&gae.advantages, &[0.69, 0.7, -0.3, -0.82, -0.8, 1.7, 1.21]);
}
