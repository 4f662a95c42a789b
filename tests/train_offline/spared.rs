//! What a run must not do: leave a file that nothing could serve, destroy one that was there, or take a judge for a policy.

use std::process::Command;

use serde_json::json;

use super::{Bench, demonstrations, rankings, text};
use crate::harness::process::binary;

/// Goal: a run whose numbers are none leaves nothing, and one that only became worse says so. Method: rates beyond every
/// model, found out by a step's loss, by the held-back records, and by a look where none are held back; an older file under
/// the name stays as it was.
#[test]
fn a_run_that_diverges_writes_nothing() {
    let bench = Bench::new();
    bench.write("data.jsonl", &demonstrations(60));
    bench.write("rankings.jsonl", &rankings(40));
    std::fs::write(bench.path("old.gguf"), "old").unwrap();
    let sft = "sft --model sft.gguf --data data.jsonl --out old.gguf --replace --learning-rate 1e300";
    for (more, what) in [
        ("--epochs 3 --batch 16", "step 2 of"),
        ("--epochs 1 --batch 1000 --validation-percent 25", "step 1 of 1: the validation loss after it"),
        ("--epochs 1 --batch 1000 --validation-percent 0", "step 1 of 1: the loss after it"),
    ] {
        let said = bench.refused(&format!("{sft} {more}"));
        let expected = ["not finite; lower the learning rate; old.gguf is not written", what];
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    }
    let reward = "reward --model sft.gguf --data rankings.jsonl --out old.gguf --replace --learning-rate 1e300 \
                  --reference-samples 8 --reference-tokens 4";
    let said = bench.refused(&format!("{reward} --epochs 3 --batch 16"));
    assert!(said.contains("step 2 of") && said.contains("lower the learning rate"), "{said}");
    let said = bench.refused(&format!("{reward} --epochs 1 --batch 1000"));
    assert!(said.contains("not finite; lower the learning rate"), "{said}");
    assert_eq!(std::fs::read(bench.path("old.gguf")).unwrap(), b"old");
    let worse = "sft --model sft.gguf --data data.jsonl --out worse.gguf --learning-rate 10 --weight-type f32";
    let worse = bench.run(&format!("{worse} --validation-percent 25"));
    let said = text(&worse.stderr);
    assert!(worse.status.success() && said.contains("warning: the model has become WORSE"), "{said}");
}

/// Goal: no run destroys what it reads or what an earlier one has left. Method: its own input as --out, by another name of
/// it too, and an epoch's name that is taken.
#[test]
fn a_run_spares_its_inputs_and_earlier_epochs() {
    let bench = Bench::new();
    bench.write("data.jsonl", &demonstrations(20));
    for (argument, out) in [("--data", "data.jsonl"), ("--model", "./sft.gguf")] {
        let said = bench.refused(&format!("sft --model sft.gguf --data data.jsonl --out {out} --replace"));
        assert!(said.contains(&format!("it is the file of {argument}")), "{said}");
    }
    let keep = "sft --model sft.gguf --data data.jsonl --out ep.gguf --keep-epochs --epochs 2";
    std::fs::write(bench.path("ep.epoch-2.gguf"), "old").unwrap();
    assert!(bench.refused(keep).contains("--keep-epochs would write ep.epoch-2.gguf: it exists already"));
    bench.done(&format!("{keep} --replace"));
    assert_ne!(std::fs::read(bench.path("ep.epoch-2.gguf")).unwrap(), b"old");
}

/// Goal: a reward model is no policy, and is told so before anything is written or bound. Method: a whole one given to each
/// command that wants a policy.
#[test]
fn a_reward_model_is_not_trained_or_served_as_a_policy() {
    let bench = Bench::new();
    bench.write("data.jsonl", &demonstrations(20));
    bench.write("rankings.jsonl", &rankings(30));
    bench.write("same.jsonl", &[json!({"prompt": "say 1", "responses": ["a", ""], "ranks": [1, 2]})]);
    bench.write("prompts.jsonl", &[json!({"prompt": "say 1"})]);
    let made = "reward --model sft.gguf --data rankings.jsonl --out rm.gguf --reference-samples 8 --reference-tokens 4";
    bench.done(made);
    for command in [
        "sft --model rm.gguf --data data.jsonl --out x.gguf",
        "reward --model rm.gguf --data rankings.jsonl --out x.gguf",
        "ppo --model rm.gguf --reward-model rm.gguf --prompts prompts.jsonl --out d",
    ] {
        let said = bench.refused(command);
        assert!(said.contains("rm.gguf: this is a reward model"), "{said}");
    }
    let serve = ["serve", "--listen", "127.0.0.1:0", "--model", "rm.gguf", "--data-dir", "d"];
    let served = Command::new(binary()).current_dir(bench.0.path()).args(serve).output().unwrap();
    let said = text(&served.stderr);
    assert!(served.status.code() == Some(1) && said.contains("rm.gguf: this is a reward model"), "{said}");
    assert!(!bench.0.path().join("d/versions/policy-0.gguf").exists(), "the folder is bound to nothing");
    let said = bench.refused("reward --model sft.gguf --data same.jsonl --out x.gguf");
    assert!(said.contains("`responses[1]` must not be empty"), "{said}");
    for wrong in ["sft --data data.jsonl --out x.gguf --mix-share 0.5", &format!("{made} --replace --lora-alpha 0")] {
        assert_eq!(bench.run(wrong).status.code(), Some(2), "called wrongly: {wrong}");
    }
}

/// Goal: two answers that are the same are remarked on, and a batch beyond the data is the data. Method: rankings with one
/// such pair; the number of steps that were done.
#[test]
fn a_pair_of_equal_answers_is_counted_and_a_batch_is_no_larger_than_the_data() {
    let bench = Bench::new();
    let mut lines = rankings(30);
    lines.push(json!({"prompt": "say 1", "chosen": "sea", "rejected": "sea"}));
    bench.write("data.jsonl", &lines);
    let output = bench.run(
        "reward --model sft.gguf --data data.jsonl --out rm.gguf --reference-samples 8 --reference-tokens 4 \
             --validation-percent 0 --batch 1000000 --epochs 2",
    );
    let (said, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("2 steps, loss"), "{said}\n{log}");
    assert!(
        log.contains("warning: data.jsonl: a response stands above one that is the same in 1 of 31 rankings"),
        "{log}"
    );
}
