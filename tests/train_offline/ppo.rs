//! Runs of `honed train ppo` that are stopped, halted, or asked for what there is not.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use ppo::rollout_log::LogReader;
use serde_json::{Value as Json, json};

use super::{Bench, rankings, text};
use crate::harness::process::binary;

/// Rounds of four prompts with two answers each, drawn so that a seed gives the same bytes whatever else runs.
const RUN: &str = "ppo --model sft.gguf --reward-model rm.gguf --prompts prompts.jsonl --samples 2 --max-tokens 8 \
     --set ppo.rollouts_per_update=8 --set ppo.minibatch=4 --set policy.threads=1 --set policy.deterministic=true";

/// With a reward model and more prompts than a round has.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("data.jsonl", &rankings(60));
    let prompts: Vec<Json> = (0..10).map(|i| json!({"prompt": format!("say {i}")})).collect();
    bench.write("prompts.jsonl", &prompts);
    bench.done(
        "reward --model sft.gguf --data data.jsonl --out rm.gguf --learning-rate 1e-3 --reference-samples 16 \
             --reference-tokens 8",
    );
    bench
}

/// A run that would take for ever, once it has shown so many updates.
fn endless(bench: &Bench, out: &str, n_updates: usize) -> Child {
    let mut child = bench
        .command(&format!("{RUN} --out {out} --updates 1000000"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    let n_shown = lines.by_ref().filter(|line| line.contains("promoted")).take(n_updates).count();
    assert_eq!(n_shown, n_updates, "it ended by itself: {}", child.wait().unwrap());
    child
}

/// The newest version that a run in `out` says it has made.
fn newest(bench: &Bench, out: &str, said: &str) -> (String, Vec<u8>) {
    let (_, name) = said.rsplit_once("versions/").unwrap();
    let name = name.split(';').next().unwrap().to_owned();
    let bytes = std::fs::read(bench.0.path().join(out).join("versions").join(&name)).unwrap();
    (name, bytes)
}

/// Goal: stopping changes nothing, wherever it happens. Method: a run that ends after one update, goes on, is killed somewhere
/// after two more, and goes on; then as many updates in one go. The last weights are the same to the bit.
#[test]
fn a_run_in_pieces_is_the_run_in_one() {
    let bench = bench();
    bench.done(&format!("{RUN} --out pieces --updates 1"));
    let mut child = endless(&bench, "pieces", 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let pieces = bench.done(&format!("{RUN} --out pieces --updates 2"));
    let rows = pieces.lines().filter(|line| !line.contains(" updates, "));
    let mut numbers = rows.filter_map(|row| row.split_whitespace().next()?.parse::<usize>().ok());
    let n_updates = numbers.next_back().unwrap() + 1;
    assert!(n_updates >= 5, "{pieces}");
    let whole = bench.done(&format!("{RUN} --out whole --updates {n_updates}"));
    let (pieces, whole) = (newest(&bench, "pieces", &pieces), newest(&bench, "whole", &whole));
    assert_eq!(pieces.0, whole.0);
    assert!(pieces.1 == whole.1, "{} differs", whole.0);
}

/// Goal: the command that a run ends with serves what it made, and whoever leaves out the model is told where it is. Method: it is
/// given to a shell, as a person would; then without, and with the file that the refusal names.
#[test]
fn a_run_ends_with_the_command_that_serves_its_folder() {
    let bench = bench();
    let said = bench.done(&format!("{RUN} --out data --updates 1"));
    let (_, told) = said.trim_end().rsplit_once("serve it with: honed ").unwrap();
    let first_line = |arguments: &str| {
        let mut command = Command::new("sh");
        let line = format!("exec {} {arguments} --listen 127.0.0.1:0", binary().display());
        command.current_dir(bench.0.path()).args(["-c", &line]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if !line.is_empty() {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        if line.is_empty() { text(&output.stderr) } else { line }
    };
    let served = first_line(told);
    assert!(served.starts_with("listening on"), "{told}: {served}");
    let refused = first_line("serve --data-dir data");
    assert!(refused.contains("lies at data/versions/policy-0.gguf and can be given as --model"), "{refused}");
    let served = first_line("serve --data-dir data --model data/versions/policy-0.gguf --set reward.model=rm.gguf");
    assert!(served.starts_with("listening on"), "{served}");
}

/// Goal: answers of a file's prompts pay for their length as those of traffic do. Method: a run in which every token costs; what its
/// update measured.
#[test]
fn answers_of_an_offline_run_pay_for_their_length() {
    let bench = bench();
    bench.done(&format!("{RUN} --out data --updates 1 --set ppo.length_penalty=0.25"));
    let log = LogReader::open(&bench.0.path().join("data")).unwrap();
    let numbers = log.update(0).unwrap().unwrap().end.unwrap().numbers;
    let taken = 0.25 * numbers["completions/mean_length"];
    assert!(taken > 0.0 && (numbers["objective/length_penalty"] - taken).abs() < 1e-9, "{numbers:?}");
}

/// Goal: a halt outlasts the run that it ended until somebody says otherwise, and what needs traffic does not stop a run that has
/// none. Method: the word that a guard leaves on disk; runs without and with `--resume`, with a canary that nobody could feed.
#[test]
fn a_halted_run_goes_on_when_it_is_told_to() {
    let bench = bench();
    bench.done(&format!("{RUN} --out data --updates 1"));
    std::fs::write(bench.0.path().join("data/learner.halted"), "kl_budget: too far").unwrap();
    let run = format!("{RUN} --out data --updates 1 --set ppo.canary_share=0.25");
    let said = bench.refused(&run);
    assert!(said.contains("learning was halted: kl_budget: too far") && said.contains("with --resume"), "{said}");
    let output = bench.run(&format!("{run} --resume"));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("--resume lifts the halt") && said.contains("ppo.canary_share is taken as 0"), "{said}");
    let said = bench.done(&run);
    assert!(said.contains("versions/policy-3.gguf"), "{said}");
}

/// Goal: a run that serves nobody competes like any other program. Method: the nice value and the scheduling class of all of its
/// threads while it learns, beside those of this one.
#[cfg(target_os = "linux")]
#[test]
fn no_thread_of_an_offline_run_gives_way() {
    /// Nice value and scheduling class, fields 19 and 41 of proc_pid_stat(5); the name before field 3 may hold anything.
    fn priority(stat: &std::path::Path) -> Option<(i32, i32)> {
        let stat = std::fs::read_to_string(stat).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some((fields[19 - 3].parse().ok()?, fields[41 - 3].parse().ok()?))
    }
    let bench = bench();
    let mut child = endless(&bench, "data", 1);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    // A thread that has ended meanwhile has nothing to say.
    let priorities: Vec<_> = tasks.filter_map(|task| priority(&task.ok()?.path().join("stat"))).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let ours = priority("/proc/thread-self/stat".as_ref()).unwrap();
    assert!(priorities.len() > 3 && priorities.iter().all(|theirs| *theirs == ours), "{priorities:?} beside {ours:?}");
}

/// Goal: what cannot be learnt from is refused before the work, by the names of the knobs. Method: one such call after the other.
#[test]
fn rounds_and_judges_that_cannot_be_are_refused() {
    let bench = Bench::new();
    bench.write("prompts.jsonl", &[json!({"prompt": "a"})]);
    let refused = |more: &str| {
        bench.misused(&format!(
            "ppo --model sft.gguf --reward-url http://127.0.0.1:9/r --prompts prompts.jsonl --out d --set \
             ppo.rollouts_per_update=16 --set ppo.minibatch=8 {more}"
        ))
    };
    let said = refused("--samples 3");
    assert!(said.contains("ppo.rollouts_per_update = 16") && said.contains("--samples 3"), "{said}");
    let said = refused("--set ppo.advantage_estimator=rloo");
    assert!(said.contains("ppo.advantage_estimator = \"rloo\"") && said.contains("--samples 2 or more"), "{said}");
    let said = refused("--set reward.source=feedback");
    assert!(said.contains("reward.source = \"feedback\"") && said.contains("name a judge"), "{said}");
}
