//! A reward model that chooses among the epochs of fine-tuning.

use serde_json::{Value as Json, json};

use super::{Bench, names, numbers_after, rankings, text};

/// People who always answer with the same word.
fn answers(word: &str, n: usize) -> Vec<Json> {
    (0..n).map(|i| json!({"prompt": format!("say {} ", i % 30), "completion": format!("{word} ").repeat(4)})).collect()
}

/// Goal: the result is the epoch that the reward model likes best, which need not be the last one; its word replaces the loss's; and
/// nothing else is left behind. Method: demonstrations of what it dislikes more and more, with all epochs kept, without, and
/// without a judge.
#[test]
fn a_reward_model_chooses_the_epoch() {
    let bench = Bench::new();
    bench.write("rankings.jsonl", &rankings(160));
    bench.write("data.jsonl", &answers("bear", 60));
    bench.write("held-back.jsonl", &answers("sea", 20));
    bench.done(
        "reward --model sft.gguf --data rankings.jsonl --out rm.gguf --learning-rate 3e-3 --epochs 2 --batch 16 \
         --reference-samples 24 --reference-tokens 8",
    );
    let how =
        "sft --model sft.gguf --data data.jsonl --validation held-back.jsonl --learning-rate 3e-3 --batch 8 --epochs 4";
    let judged = "--reward-model rm.gguf --reward-prompts 16 --reward-tokens 8";
    let output = bench.run(&format!("{how} {judged} --out out.gguf --keep-epochs"));
    let (said, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    let rewards = &numbers_after(&said, "reward")[..5];
    let best = (1..5).fold(1, |best, epoch| if rewards[epoch] > rewards[best] { epoch } else { best });
    assert!(best < 4 && rewards[4] < rewards[best], "{said}");
    assert!(said.contains(&format!("epoch {best} of 4 is the result")), "{said}");
    let bytes = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(bytes("out.gguf"), bytes(&format!("out.epoch-{best}.gguf")));
    let losses = numbers_after(&said, "validation loss");
    assert!(losses[4] > losses[0] && !log.contains("WORSE"), "{said}\n{log}");
    assert_eq!(log.contains("likes no epoch as well"), rewards[best] < rewards[0], "{said}\n{log}");
    let before = names(bench.0.path());
    bench.done(&format!("{how} {judged} --out other.gguf"));
    assert_eq!(bytes("other.gguf"), bytes("out.gguf"));
    let new: Vec<String> = names(bench.0.path()).into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(new, ["other.gguf"]);
    let output = bench.run(&format!("{how} --out last.gguf"));
    assert!(output.status.success() && text(&output.stderr).contains("WORSE"), "{output:?}");
    assert_eq!(bytes("last.gguf"), bytes("out.epoch-4.gguf"));
}

/// Goal: a judge that cannot be asked is refused before the work. Method: prompts that leave no room, none that are held back, a file
/// that is no reward model, and the judge's own file as an epoch's.
#[test]
fn a_judge_that_cannot_choose_is_refused_first() {
    let bench = Bench::new();
    bench.write("data.jsonl", &answers("bear", 20));
    std::fs::copy(bench.path("sft.gguf"), bench.path("out.epoch-1.gguf")).unwrap();
    for (more, expected) in [
        (
            "--out x.gguf --reward-model sft.gguf --reward-tokens 100000",
            "--reward-model needs prompts that are held back",
        ),
        (
            "--out x.gguf --reward-model sft.gguf --validation-percent 0",
            "--reward-model needs prompts that are held back",
        ),
        ("--out x.gguf --reward-model sft.gguf --validation-percent 50", "reward model sft.gguf: "),
        ("--out out.gguf --reward-model out.epoch-1.gguf", "--reward-model would write out.epoch-1.gguf"),
    ] {
        let said = bench.refused(&format!("sft --model sft.gguf --data data.jsonl {more}"));
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    }
}
