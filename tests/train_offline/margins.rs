//! Pairs that say how far apart their scores ought to be.

use serde_json::{Value as Json, json};

use super::{Bench, numbers_after, text};

/// A file of pairs with these fields beside them.
fn pairs(bench: &Bench, name: &str, fields: &Json) {
    let pair = |i: usize| {
        let mut pair = json!({"prompt": format!("say {i}"), "chosen": "sea sea", "rejected": "bear bear"});
        let fields = fields.as_object().unwrap().clone();
        pair.as_object_mut().unwrap().extend(fields);
        pair
    };
    bench.write(name, &(0..16).map(pair).collect::<Vec<Json>>());
}

/// The digest of the model and the loss of the first step, on standard output; and what was told beside it.
fn trained(bench: &Bench, data: &str, more: &str) -> (String, f64, String) {
    let output = bench.run(&format!(
        "reward --model sft.gguf --data {data} --out rm.gguf --replace --reference-samples 8 --reference-tokens 4 \
         --validation-percent 0 --batch 8 --learning-rate 1e-3 {more}"
    ));
    let (said, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    let (_, digest) = said.split_once("(sha256 ").unwrap();
    (digest.split(')').next().unwrap().to_owned(), numbers_after(&said, "loss")[0], log)
}

/// Goal: a pair's number and its word ask for the same gap where they mean the same, and for none where nobody asked for it. Method: one
/// set of pairs with nothing, a number, the word of that number, and both that differ; the files of the models, and the loss before
/// the first step, which of a new model is that of the margin alone.
#[test]
fn margins_and_strengths_of_pairs_are_learnt() {
    let bench = Bench::new();
    pairs(&bench, "bare.jsonl", &json!({}));
    pairs(&bench, "margin.jsonl", &json!({"margin": 2}));
    pairs(&bench, "strength.jsonl", &json!({"strength": "better"}));
    pairs(&bench, "both.jsonl", &json!({"strength": "slightly", "margin": 2.0}));
    let (bare, bare_loss, log) = trained(&bench, "bare.jsonl", "--margin-scale large");
    assert!(log.contains("warning: bare.jsonl: no ranking tells its strength"), "{log}");
    let (margin, margin_loss, log) = trained(&bench, "margin.jsonl", "--margin-per-rank 0.5");
    assert!(log.contains("margin.jsonl: 16 of 16 rankings have a margin of their own, 2.000 on average"), "{log}");
    assert!(margin != bare && margin_loss > bare_loss + 0.5, "{bare_loss} {margin_loss}");
    assert_eq!(trained(&bench, "bare.jsonl", "--margin-per-rank 2").0, margin, "a pair is a step of rank");
    assert_eq!(trained(&bench, "strength.jsonl", "--margin-scale large").0, margin);
    assert_eq!(trained(&bench, "both.jsonl", "--margin-scale large").0, margin, "the number comes first");
    let (small, small_loss, _) = trained(&bench, "strength.jsonl", "--margin-scale small");
    assert!(small != margin && small != bare && bare_loss < small_loss && small_loss < margin_loss);
    let (unheard, _, log) = trained(&bench, "strength.jsonl", "");
    assert_eq!(unheard, bare);
    assert!(log.contains("strength.jsonl: 16 rankings tell their strength, which --margin-scale none does not count"));
}
