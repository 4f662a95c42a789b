//! `honed train`: the three commands on small files with a tiny real model, and what they say when they are called with
//! what cannot be.
//!
//! Method throughout: the real binary as a process of its own in a folder of its own, as a user would call it; what it
//! leaves is given to the daemon, which must take it.

mod chosen;
mod margins;
mod ppo;
mod resumed;
mod spared;

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use candle_core::quantized::gguf_file::Value;
use policy::{checkpoint::Checkpoint, transformer::is_adapter};
use serde_json::{Value as Json, json};

use crate::harness::{TestDaemon, model, process::binary};

/// A folder with the model `sft.gguf` in it.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(model::file(), folder.path().join("sft.gguf")).unwrap();
        Bench(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, lines: &[Json]) {
        let text = lines.iter().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").unwrap();
            text
        });
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    /// `honed train` with these words.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(binary());
        command.current_dir(self.0.path()).arg("train").args(arguments.split_whitespace()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it said on standard output.
    #[track_caller]
    fn done(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let (said, log) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}\n{said}\n{log}");
        said
    }

    /// It failed with exit code 1 and left no file behind; what it said on standard error.
    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        self.ended(arguments, 1)
    }

    /// As [`Bench::refused`], of a call that could not be carried out anywhere.
    #[track_caller]
    fn misused(&self, arguments: &str) -> String {
        self.ended(arguments, 2)
    }

    #[track_caller]
    fn ended(&self, arguments: &str, code: i32) -> String {
        let before = names(self.0.path());
        let output = self.run(arguments);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{}\n{log}", text(&output.stdout));
        assert_eq!(names(self.0.path()), before, "{log}");
        log
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The numbers after `word`, in order.
fn numbers_after(text: &str, word: &str) -> Vec<f64> {
    let after = |(at, _): (usize, &str)| {
        let rest = text[at + word.len()..].trim_start();
        rest.split([' ', ',', '\n']).next().and_then(|number| number.parse().ok())
    };
    text.match_indices(word).filter_map(after).collect()
}

fn demonstrations(n: usize) -> Vec<Json> {
    let one = |i: usize| {
        let (thing, color) = [("sea", "blue"), ("bear", "brown"), ("seal", "grey")][i % 3];
        let completion = format!("the {thing} is {color}");
        match i % 2 {
            0 => json!({"prompt": format!("what color is the {thing}? "), "completion": completion, "user": i % 20}),
            _ => json!({"user": i % 20, "source": "x", "messages": [
                {"role": "user", "content": format!("what color is the {thing}?")},
                {"role": "assistant", "content": completion},
            ]}),
        }
    };
    (0..n).map(one).collect()
}

/// Answers are better the more often they hold `sea`.
fn rankings(n: usize) -> Vec<Json> {
    let one = |i: usize| {
        let k = 2 + i % 3;
        let responses: Vec<String> =
            (0..k).map(|j| format!("{}{}", "sea ".repeat((j + i) % k), "bear ".repeat(k - (j + i) % k))).collect();
        let ranks: Vec<usize> = (0..k).map(|j| k - (j + i) % k).collect();
        json!({"prompt": format!("say {}", i % 30), "responses": responses, "ranks": ranks, "worker": i % 4})
    };
    (0..n).map(one).collect()
}

/// Goal: what was shown is learnt, also on people who were held back, and the file serves. Method: two formats with user
/// ids; the loss before and after; the daemon answers from the file.
#[test]
fn a_fine_tuned_model_has_learnt_and_serves() {
    let bench = Bench::new();
    bench.write("data.jsonl", &demonstrations(120));
    bench.write("text.jsonl", &[json!({"text": "the ocean is vast and deep"}), json!({"text": "a bear"})]);
    let said = bench.done(
        "sft --model sft.gguf --data data.jsonl --mix text.jsonl --out out.gguf --learning-rate 3e-3 \
             --epochs 3 --batch 16 --validation-percent 25 --keep-epochs",
    );
    let losses = numbers_after(&said, "validation loss");
    assert!(losses.len() >= 4 && losses[3] < 0.7 * losses[0], "{said}");
    assert!(names(bench.0.path()).contains(&"out.epoch-2.gguf".to_owned()), "{said}");
    let daemon = TestDaemon::builder().set(format!("policy.model={}", bench.path("out.gguf"))).start();
    let body = json!({"prompt": "what color is the sea? ", "max_tokens": 8, "temperature": 0});
    assert!(daemon.post("/v1/completions", &body).ok()["choices"][0]["text"].is_string());
    daemon.stop();
}

/// Goal: an adapter learns what was shown, leaves the base alone, and is written as the whole model that it has become, after every
/// epoch. Method: the loss before and after; the loss of the written file, measured by another run; tensors that have no adapter.
#[test]
fn a_fine_tuned_adapter_becomes_a_whole_model() {
    let bench = Bench::new();
    bench.write("data.jsonl", &demonstrations(120));
    let base = std::fs::read(bench.path("sft.gguf")).unwrap();
    let how = "--data data.jsonl --validation-percent 25 --batch 16";
    let said = bench.done(&format!(
        "sft --model sft.gguf --out out.gguf {how} --lora-rank 4 --lora-alpha 8 --learning-rate 2e-2 --epochs 3 \
         --keep-epochs"
    ));
    let losses = numbers_after(&said, "validation loss");
    assert!(losses[3] < 0.9 * losses[0], "{said}");
    assert_eq!(std::fs::read(bench.path("sft.gguf")).unwrap(), base);
    for (file, loss) in [("out.epoch-2.gguf", losses[2]), ("out.gguf", losses[3])] {
        let again = bench.done(&format!("sft --model {file} --out again.gguf --replace {how} --epochs 1"));
        assert!((numbers_after(&again, "validation loss")[0] - loss).abs() < 2e-3, "{file}: {said}\n{again}");
    }
    let [before, after] = ["sft.gguf", "out.gguf"].map(|name| Checkpoint::read(bench.path(name).as_ref()).unwrap());
    assert_eq!(before.types, after.types);
    assert!(!is_adapter(&after.metadata));
    for (name, tensor) in &before.tensors {
        let [a, b] = [tensor, &after.tensors[name]].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        assert_eq!(a != b, tensor.rank() == 2 && name.starts_with("blk."), "{name}");
    }
    let daemon = TestDaemon::builder().set(format!("policy.model={}", bench.path("out.gguf"))).start();
    let body = json!({"prompt": "what color is the sea? ", "max_tokens": 8, "temperature": 0});
    assert!(daemon.post("/v1/completions", &body).ok()["choices"][0]["text"].is_string());
    daemon.stop();
}

/// Goal: an ensemble learns an order, measures itself, and judges in the daemon with its spread. Method: rankings whose
/// rule is known; a good and a bad answer over `/v1/rewards`.
#[test]
fn an_ensemble_learns_the_order_and_judges_in_the_daemon() {
    let bench = Bench::new();
    bench.write("data.jsonl", &rankings(160));
    let said = bench.done(
        "reward --model sft.gguf --data data.jsonl --out rm.gguf --heads 3 --learning-rate 3e-3 --epochs \
             2 --batch 16 --reference-samples 24 --reference-tokens 8 --validation-percent 20",
    );
    let accuracy = numbers_after(&said, "accuracy")[0];
    assert!(accuracy > 0.9, "{said}");
    let file = reward::RewardModel::load(bench.path("rm.gguf").as_ref(), &candle_core::Device::Cpu).expect("a model");
    let told = file.held_out().expect("something was held back");
    assert!((told.accuracy - accuracy).abs() < 1e-4 && told.n_pairs > 0, "the file says so too: {told:?} {said}");
    assert!(numbers_after(&said, "pairs:").contains(&1.0), "all workers agree: {said}");
    assert!(numbers_after(&said, "calibration error")[0] < 0.3 && said.contains("head 2: gain"), "{said}");
    let judge = |ensemble: &str| {
        let daemon = TestDaemon::builder()
            .set(format!("policy.model={}", bench.path("sft.gguf")))
            .set(format!("reward.model={}", bench.path("rm.gguf")))
            .set(format!("reward.ensemble={ensemble}"))
            .start();
        let input = ["sea sea sea", "bear bear bear"].map(|c| json!({"prompt": "say 1", "completion": c}));
        let data = daemon.post("/v1/rewards", &json!({"input": input})).ok()["data"].clone();
        daemon.stop();
        let number = |i: usize, key: &str| data[i][key].as_f64().unwrap();
        ([number(0, "score"), number(1, "score")], [number(0, "std"), number(1, "std")])
    };
    let (mean, std) = judge("mean");
    assert!(mean[0] > mean[1] + 0.5 && std.iter().all(|std| *std > 0.0), "{mean:?} {std:?}");
    let (worst, same) = judge("min");
    assert!(worst[0] < mean[0] && worst[1] < mean[1] && same == std, "{worst:?} {mean:?}");
}

/// Goal: an offline run publishes as the daemon does, goes on where it stopped, and can be served. Method: two updates, one
/// more in the same folder, then the daemon on that folder.
#[test]
fn offline_ppo_publishes_versions_that_the_daemon_serves() {
    let bench = Bench::new();
    bench.write("data.jsonl", &rankings(60));
    bench.write("prompts.jsonl", &[json!({"prompt": "say 1"}), json!({"prompt": "say 2", "user": "x"})]);
    bench.done(
        "reward --model sft.gguf --data data.jsonl --out rm.gguf --learning-rate 1e-3 \
             --reference-samples 16 --reference-tokens 8 --heads 2",
    );
    let run = |updates: &str| {
        bench.done(&format!(
            "ppo --model sft.gguf --reward-model rm.gguf --prompts prompts.jsonl --out data --updates \
             {updates} --samples 4 --max-tokens 8 --set ppo.rollouts_per_update=16 --set ppo.minibatch=8 \
             --set policy.threads=1 --set reward.ensemble=uwo",
        ))
    };
    let first = run("2");
    assert!(first.contains("2 updates, 2 of them promoted") && first.contains("versions/policy-2.gguf"), "{first}");
    let second = run("1");
    assert!(second.contains("versions/policy-3.gguf"), "{second}");
    let daemon = TestDaemon::builder()
        .set(format!("policy.model={}", bench.path("sft.gguf")))
        .start_in(&bench.0.path().join("data"));
    let policies = daemon.get("/v1/policies").ok();
    assert_eq!(policies["live"], 3, "{policies}");
    let rows = policies["data"].as_array().unwrap();
    let live = rows.iter().find(|row| row["version"] == 3).unwrap();
    let number = |name: &str| live["numbers"][name].as_f64().unwrap();
    assert!(number("objective/scores_member_variance") > 0.0, "{live}");
    // A random model never ends within eight tokens, and what the run's own limit cuts off is not judged by its text.
    assert!(number("objective/scores_changed_fraction") > 0.5 && number("staleness/max") <= 1.0, "{live}");
    daemon.stop();
}

/// Goal: with adapters everywhere, one set of weights serves, judges and learns. Method: a reward model of rank 4 on rankings
/// whose rule is known; a daemon that learns with rank 2 judges with it, updates and publishes an adapter.
#[test]
fn a_reward_model_that_is_an_adapter_judges_beside_the_policys_weights() {
    let bench = Bench::new();
    bench.write("data.jsonl", &rankings(160));
    let said = bench.done(
        "reward --model sft.gguf --data data.jsonl --out rm.gguf --lora-rank 4 --learning-rate 1e-2 --epochs \
             2 --batch 16 --reference-samples 24 --reference-tokens 8 --validation-percent 20",
    );
    assert!(numbers_after(&said, "accuracy")[0] > 0.9, "{said}");
    let size = |name: &str| std::fs::metadata(bench.path(name)).unwrap().len();
    assert!(size("rm.gguf") < size("sft.gguf") / 2);
    let daemon = TestDaemon::builder()
        .set(format!("policy.model={}", bench.path("sft.gguf")))
        .set(format!("reward.model={}", bench.path("rm.gguf")))
        .set("ppo.enabled=true")
        .set("ppo.lora_rank=2")
        .set("ppo.rollouts_per_update=8")
        .set("ppo.minibatch=4")
        .start();
    let input = ["sea sea sea", "bear bear bear"].map(|c| json!({"prompt": "say 1", "completion": c}));
    let data = daemon.post("/v1/rewards", &json!({"input": input})).ok()["data"].clone();
    assert!(data[0]["score"].as_f64().unwrap() > data[1]["score"].as_f64().unwrap() + 0.5, "{data}");
    for seed in 0..8 {
        let body = json!({"prompt": "say 1", "max_tokens": 8, "seed": seed});
        daemon.post("/v1/completions", &body).ok();
    }
    daemon.wait_for("a version", |daemon| daemon.get("/v1/policies").ok()["live"] == 1);
    daemon.stop();
    let refused = bench.refused("reward --model rm.gguf --data data.jsonl --out other.gguf");
    assert!(refused.contains("rm.gguf: this is a reward model"), "{refused}");
}

/// Goal: every mistake in a file is named with its line and its field before anything is trained. Method: one wrong file
/// after the other; no run leaves a file.
#[test]
fn wrong_data_is_named_by_file_line_and_field() {
    let bench = Bench::new();
    let mut lines: Vec<String> = demonstrations(10).iter().map(Json::to_string).collect();
    lines[6] = "{\"prompt\": \"a\", \"completion\": ".to_owned();
    std::fs::write(bench.0.path().join("broken.jsonl"), lines.join("\n")).unwrap();
    bench.write("field.jsonl", &[json!({"prompt": "a", "completion": "b"}), json!({"prompt": "a"})]);
    bench.write("ranks.jsonl", &[json!({"prompt": "a", "responses": ["x", "y", "z"], "ranks": [1, 2]})]);
    bench.write("pair.jsonl", &[json!({"prompt": "a", "chosen": "x", "rejected": ["y"]})]);
    bench.write("margin.jsonl", &[json!({"prompt": "a", "chosen": "x", "rejected": "y", "margin": -1})]);
    bench.write("empty.jsonl", &[]);
    bench.write("long.jsonl", &[json!({"prompt": "a ".repeat(300), "completion": "b"})]);
    bench.write("prompts.jsonl", &[json!({"text": "a"})]);
    let cases = [
        ("sft", "broken.jsonl", "broken.jsonl, line 7: the line is not valid JSON"),
        ("sft", "field.jsonl", "field.jsonl, line 2: `completion` is required"),
        ("sft", "empty.jsonl", "empty.jsonl: it holds no records"),
        ("sft", "long.jsonl", "no record is left to learn from"),
        ("sft", "absent.jsonl", "absent.jsonl: No such file"),
        ("reward", "ranks.jsonl", "ranks.jsonl, line 1: `ranks` must have one rank for each of 3 responses, not 2"),
        ("reward", "pair.jsonl", "pair.jsonl, line 1: `rejected"),
        ("reward", "margin.jsonl", "margin.jsonl, line 1: `margin` must be a finite number from 0 on, not -1"),
        ("reward", "field.jsonl", "field.jsonl, line 1: the record needs `chosen` and `rejected`"),
    ];
    for (command, data, expected) in cases {
        let said =
            bench.refused(&format!("{command} --model sft.gguf --validation-percent 0 --data {data} --out x.gguf"));
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    }
    let said = bench.refused("ppo --model sft.gguf --reward-url http://127.0.0.1:9/r --out d --prompts prompts.jsonl");
    assert!(said.contains("prompts.jsonl, line 1: the record needs `prompt` or `messages`"), "{said}");
}

/// Goal: what cannot end well is refused before the work. Method: models, outputs and sizes that cannot be.
#[test]
fn models_outputs_and_sizes_that_cannot_be_are_refused_first() {
    let bench = Bench::new();
    bench.write("data.jsonl", &demonstrations(4));
    let mut other = Checkpoint::read(&model::file()).unwrap();
    other.metadata.set("general.architecture", Value::String("mamba".to_owned()));
    other.write(&bench.0.path().join("mamba.gguf")).unwrap();
    let refused = |model: &str, out: &str, more: &str| {
        bench.refused(&format!("sft --data data.jsonl --model {model} --out {out} {more}"))
    };
    let said = refused("mamba.gguf", "x.gguf", "");
    assert!(said.contains("architecture \"mamba\" serves but cannot be trained"), "{said}");
    let said = refused("data.jsonl", "x.gguf", "");
    assert!(said.contains("data.jsonl") && said.contains("GGUF"), "{said}");
    assert!(refused("sft.gguf", "none/x.gguf", "").contains("there is no folder none"));
    assert!(refused("sft.gguf", "sft.gguf", "").contains("it exists already"));
    let said = refused("sft.gguf", "x.gguf", "--batch 1000000000 --micro-batch-tokens 1000000000");
    assert!(said.contains("activations (1000000000 tokens") && said.contains("training needs"), "{said}");
    bench.write("prompts.jsonl", &[json!({"prompt": "a"})]);
    let said = bench.misused("ppo --model sft.gguf --prompts prompts.jsonl --out d");
    assert!(said.contains("name a judge with --reward-model FILE or --reward-url URL"), "{said}");
    let said = bench.run("sft --data data.jsonl --out x.gguf --mix-share 1.5");
    assert_eq!(said.status.code(), Some(2), "called wrongly");
}

/// Goal: Ctrl-C stops at a step, keeps the weights of that step and says where. Method: a run that would take for ever, a
/// signal once its first line is there; the kept file serves as a start.
#[test]
fn an_interrupted_run_keeps_the_weights_of_its_last_step() {
    let bench = Bench::new();
    bench.write("data.jsonl", &demonstrations(20));
    let mut child = bench
        .command("sft --model sft.gguf --data data.jsonl --out out.gguf --epochs 1000000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("epoch 1 "));
    assert!(first.is_some());
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: kill has no memory effects here; the child is ours and not yet reaped, so its number is its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted after step") && said.contains("whole in out.step-"), "{said}");
    let kept = names(bench.0.path()).into_iter().find(|name| name.starts_with("out.step-")).unwrap();
    assert!(!names(bench.0.path()).contains(&"out.gguf".to_owned()));
    bench.done(&format!("sft --model {kept} --data data.jsonl --out next.gguf --epochs 1"));
}
