use super::{episode, from_passes_with, limits, rollout};
use crate::experience::{Proximal, admit};

/// Goal: each way to weigh stale tokens is reached by its word. Method: two answers; one token of the first was drawn with
/// e^−1.7 times the probability that the trainer gives it now, the second as the trainer would.
#[test]
fn every_word_weighs_as_it_says() {
    let weigh = |word: &str| {
        let mut first = episode(0, 8, 1.0, true);
        first.behavior[3] = -2.7;
        let episodes = vec![first, episode(1, 1, 0.0, true)];
        from_passes_with(episodes, [&[-1.0; 9], &[-1.0; 9], &[0.0; 9]], |config| config.importance = word.to_string())
    };
    let slip = 1.7_f64.exp();
    for (word, at_the_slip, elsewhere) in [
        ("geometric", 2.0, 1.0),
        ("token_truncate", 2.0, 1.0),
        ("token_mask", 0.0, 1.0),
        ("sequence_truncate", 2.0, 2.0),
        ("off", 1.0, 1.0),
        ("bypass", 1.0, 1.0),
    ] {
        let got = weigh(word);
        let Proximal::Known { log_probs, importance } = &got.proximal else { panic!("it is computed") };
        assert!((importance.weights[3] - at_the_slip).abs() < 1e-12, "{word}: {:?}", importance.weights);
        assert!((importance.weights[0] - elsewhere).abs() < 1e-12, "{word}");
        assert_eq!(importance.weights[8], 1.0, "{word}");
        assert!(got.is_kept(0) && got.is_kept(1), "{word}: one token costs no answer");
        let centre = if word == "bypass" { -2.7 } else { -1.0 };
        assert_eq!((log_probs[3], log_probs[0]), (centre, -1.0), "{word}");
    }
    assert!(slip > 5.0, "beyond the mask");
    assert_eq!(weigh("token_mask").whitened[3], 0.0, "what is masked has no say in the whitening");
}

/// Truncation that keeps nine tenths of the mass trains, weighed down by what it kept (class B); the engine is not blamed.
#[test]
fn a_truncated_draw_trains_with_the_weight_of_its_kept_mass() {
    let kept: f32 = 0.95;
    let scored = rollout(|r| {
        r.sampling.top_p = 0.95;
        for token in &mut r.response {
            token.log_kept_mass = kept.ln();
            token.behavior.0 -= kept.ln();
        }
    });
    let episodes = admit(std::slice::from_ref(&scored), limits()).episodes;
    let n = episodes[0].n_tokens();
    let old: Vec<f64> = scored.rollout().response.iter().map(|t| f64::from(t.log_prob.0)).collect();
    let got = from_passes_with(episodes, [&old, &old, &vec![0.0; n]], |_| ());
    let importance = got.importance().unwrap();
    assert!(importance.weights.iter().all(|w| (w - f64::from(kept)).abs() < 1e-6), "{importance:?}");
    assert!(got.engine_gap().unwrap() < 1e-6);
    assert!(importance.mean_abs_gap > 0.05);
}

#[test]
fn the_engine_is_judged_by_the_weights_that_it_serves_now() {
    let mut stale = episode(0, 2, 1.0, true);
    (stale.staleness, stale.behavior) = (1, vec![-3.0; 2]);
    let only_stale = from_passes_with(vec![stale.clone()], [&[-1.0; 2], &[-1.0; 2], &[0.0; 2]], |_| ());
    assert_eq!(only_stale.engine_gap(), None);
    let mut fresh = episode(1, 1, 1.0, true);
    fresh.behavior = vec![-1.25];
    let both = from_passes_with(vec![stale, fresh], [&[-1.0; 3], &[-1.0; 3], &[0.0; 3]], |_| ());
    assert_eq!(both.engine_gap(), Some(0.25));
}

#[test]
fn the_words_for_missing_ends_and_for_the_penalty_are_obeyed() {
    let scores = |word: &str| {
        let episodes = vec![episode(0, 1, 5.0, true), episode(1, 1, 5.0, false)];
        let passes = [&[-1.0; 2][..], &[-1.0; 2], &[0.0; 2]];
        from_passes_with(episodes, passes, |config| config.missing_eos = word.to_string()).scores
    };
    assert_eq!(scores("replace"), vec![2.0, -1.0]);
    assert_eq!(scores("subtract"), vec![2.0, 1.0], "after the clip at 2");
    assert_eq!(scores("keep"), vec![2.0, 2.0]);
    let penalty = |word: &str| {
        let passes = [&[-1.0; 1][..], &[-3.0; 1], &[0.0; 1]];
        let rewards =
            from_passes_with(vec![episode(0, 1, 0.0, true)], passes, |c| c.kl_estimator = word.to_string()).rewards;
        -rewards[0] / 0.1
    };
    let expected = [("k1", 2.0), ("k2", 2.0), ("k3", (-2.0_f64).exp() + 1.0)];
    assert!(expected.iter().all(|(word, kl)| (penalty(word) - kl).abs() < 1e-12));
}
