//! What every command keeps to: its exit code says whose fault it was, nobody need read to the end, and what cannot be written is
//! said before the work.
//!
//! Method throughout: the real binary in a folder of its own, as a user would call it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::harness::{
    TestDaemon, model,
    process::{Process, binary},
    versions::publish_versions,
};

fn honed(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(folder).args(arguments.split_whitespace()).stdin(Stdio::null());
    command
}

/// A folder with a model, demonstrations and prompts in it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, line: &str| {
        let lines: String = (0..40).map(|n| line.replace('#', &n.to_string()) + "\n").collect();
        std::fs::write(folder.path().join(name), lines).unwrap();
    };
    std::fs::copy(model::file(), folder.path().join("sft.gguf")).unwrap();
    write("data.jsonl", r#"{"prompt": "say #", "completion": " the sea is #"}"#);
    write("prompts.jsonl", r#"{"prompt": "say #"}"#);
    folder
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// Goal: 2 is for whoever called wrongly, of every family of commands, and the help says so. Method: a knob that there is not, and
/// arguments that cannot be.
#[test]
fn a_wrong_call_is_told_by_the_exit_code() {
    let folder = folder();
    for wrong in [
        "serve --set x.y=1",
        "train ppo --prompts prompts.jsonl --out d --set x.y=1",
        "train ppo --prompts prompts.jsonl --out d --set daemon.import_watch=load",
        "train ppo --prompts prompts.jsonl --out d --samples 3",
        "demo --set x.y=1",
        "bench serve --set x.y=1",
        "bench ppo --batch 3 --minibatch 2",
        "eval shapes --share 2",
        "rollouts stats --set x.y=1",
        "policies list --listen nowhere",
    ] {
        let output = honed(folder.path(), wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}: {}", said(&output));
    }
    assert!(!folder.path().join("d").exists());
    let help = honed(folder.path(), "--help").output().unwrap();
    assert!(said(&help).contains("Exit: 0 done, 1 failed, 2 called wrongly."));
    let failed = honed(folder.path(), "policies list --data-dir absent").output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
}

/// Goal: a run whose lines nobody reads any more leaves what it was started for. Method: both its outputs closed after one line;
/// the file is whole.
#[test]
fn a_closed_output_loses_no_training() {
    let folder = folder();
    let run = "train sft --model sft.gguf --data data.jsonl --out out.gguf --epochs 3 --batch 8";
    let mut child = honed(folder.path(), run).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("epoch "), "{line}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let again = "train sft --model out.gguf --data data.jsonl --out next.gguf --epochs 1";
    let output = honed(folder.path(), again).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// Goal: a command that only answers ends well where nobody takes the answer. Method: one that has not written anything yet when
/// its output is closed.
#[test]
fn an_answer_that_nobody_takes_is_no_fault() {
    let folder = folder();
    for command in ["config print", "doctor --listen 127.0.0.1:0 --data-dir d --model sft.gguf"] {
        let mut child = honed(folder.path(), command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {}", said(&output));
        assert!(!said(&output).contains("panicked"), "{command}: {}", said(&output));
    }
}

/// Goal: nothing that is there is lost, and what cannot be written is told before the work, by its path. Method: files and folders
/// that are there or are not.
#[test]
fn outputs_are_looked_at_first() {
    let folder = folder();
    let data = folder.path().join("data");
    publish_versions(&data, 1);
    let old = folder.path().join("old.jsonl");
    std::fs::write(&old, "mine").unwrap();
    for (call, told) in [
        ("rollouts export --data-dir data --out old.jsonl", "old.jsonl exists already"),
        ("rollouts export --data-dir data --out none/x.jsonl", "none/x.jsonl: No such file"),
        ("demo --report none/report.html", "none/report.html: No such file"),
        ("demo --json none/demo.json", "none/demo.json: No such file"),
        ("eval shapes --json none/shapes.jsonl", "none/shapes.jsonl: No such file"),
        ("eval shapes --json data", "data: Is a directory"),
    ] {
        let output = honed(folder.path(), call).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{call}: {}", said(&output));
        assert!(said(&output).contains(told), "{call}: {}", said(&output));
    }
    assert_eq!(std::fs::read_to_string(old).unwrap(), "mine");
    assert!(!folder.path().join("report.html").exists() && !folder.path().join("shapes.svg").exists());
}

/// Goal: a variable that is set for the whole machine stops no command, and whoever serves learns why there are no traces. Method:
/// a collector that speaks what honed does not.
#[test]
fn a_collector_that_cannot_be_used_stops_nothing() {
    const VARIABLE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318");
    let folder = folder();
    let check = honed(folder.path(), "config check").env(VARIABLE.0, VARIABLE.1).output().unwrap();
    assert!(check.status.success(), "{}", said(&check));
    let log = folder.path().join("log");
    let mut command = Command::new(binary());
    command.env(VARIABLE.0, VARIABLE.1).stderr(std::fs::File::create(&log).unwrap());
    drop(Process::spawn(command, &folder.path().join("data"), &["ppo.enabled=false"]));
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("traces are not sent: OTEL_EXPORTER_OTLP_ENDPOINT is https://collector:4318").count(), 1);
    assert!(!log.contains("sending traces"), "{log}");
}

/// Goal: the keys of the real daemons keep no bench from measuring answers. Method: the shortest bench beside such keys, by the
/// environment and by a file.
#[test]
fn a_bench_needs_no_key() {
    let folder = folder();
    std::fs::write(folder.path().join("keys"), "k-file\n").unwrap();
    std::fs::write(folder.path().join("c.toml"), "[daemon]\napi_keys_file = \"keys\"\nadmin_keys_file = \"keys\"\n")
        .unwrap();
    let bench = "bench swap --swaps 2 --pause-ms 1 --max-tokens 4 --config c.toml --model sft.gguf";
    let output = honed(folder.path(), bench).env("HONED_API_KEYS", "k-env").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["failed_requests"], &report["failed_swaps"]), (&0.into(), &0.into()), "{report}");
    assert!(report["traffic"]["requests"].as_u64() > Some(0), "{report}");
    let keyed = format!("{bench} --set daemon.api_keys_file=keys");
    let output = honed(folder.path(), &keyed).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(output.stdout.is_empty() && said(&output).contains("a valid API key is required"), "{}", said(&output));
}

/// Goal: layers for a GPU are never silently the processor's. Method: this build on this machine, where it has none.
#[test]
fn layers_for_a_gpu_that_is_not_there_are_refused() {
    let folder = folder();
    let call = "serve --listen 127.0.0.1:0 --data-dir data --model sft.gguf --set policy.gpu_layers=99";
    if policy::engine::hardware().unwrap().iter().any(|device| device.is_gpu) {
        eprintln!("SKIPPED: this machine has a GPU");
        return;
    }
    let output = honed(folder.path(), call).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("policy.gpu_layers = 99: "), "{}", said(&output));
    assert!(!folder.path().join("data/versions/policy-0.gguf").exists(), "the folder is bound to nothing");
}

#[test]
fn the_first_page_shows_a_command_that_works() {
    let daemon = TestDaemon::start();
    // The harness asks under a name without a port.
    assert!(daemon.get("/").text().contains("curl http://127.0.0.1/v1/completions"));
}
