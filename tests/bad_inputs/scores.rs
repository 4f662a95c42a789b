//! 34: a reward model that says infinity.

use super::bench::Case;

pub(super) const CASES: &[Case] = &[(34, "a score that is no number is an error, and never a score", |b| {
    let before = b.metric("honed_score_non_finite_total");
    for (path, body) in [
        ("/score", r#"{"text_1":"a","text_2":"b"}"#),
        ("/v1/rewards", r#"{"input":[{"prompt":"a","completion":"b"}]}"#),
        ("/classify", r#"{"input":"a"}"#),
        ("/pooling", r#"{"input":"a"}"#),
        ("/rerank", r#"{"query":"a","documents":["b"]}"#),
        ("/predict", r#"{"inputs":"a","raw_scores":false}"#),
        ("/get_reward", r#"{"query":["a"]}"#),
    ] {
        let error = b.post(path, body).error(500);
        assert_eq!(error["code"], "internal_error", "{path}");
        let message = error["message"].as_str().expect("a text");
        assert!(["inf", "NaN", "finite"].iter().all(|word| !message.contains(word)), "causes stay inside: {message}");
    }
    assert_eq!(b.metric("honed_score_non_finite_total"), before + 7.0);
})];
