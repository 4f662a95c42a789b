//! Data directories that a start or a command finds in another state than it would like: begun with a model that cannot serve,
//! without their database, with files that nobody knows, on a medium that nobody can write.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use policy::checkpoint::Checkpoint;
use serde_json::json;

use crate::harness::{
    client::{self, request},
    model,
    process::{self, Process},
    versions::publish_versions,
};

/// Whom no file belongs to.
const NOBODY: u32 = 65_534;

/// The binary with these arguments and a data directory.
fn honed(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(process::binary());
    command.args(args).arg("--data-dir").arg(data);
    command
}

fn serve(data: &Path, file: &Path, sets: &[&str]) -> Command {
    let mut command = honed(data, &["serve", "--listen", "127.0.0.1:0"]);
    command.arg("--model").arg(file);
    for set in sets {
        command.args(["--set", set]);
    }
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends by itself with status 1; returns its last words, without what it logged before.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().expect("it ends by itself");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    said.lines().skip_while(|line| !line.starts_with("honed: ")).collect::<Vec<_>>().join("\n")
}

/// The model with the numbers of some of its tensors multiplied.
fn spoilt(path: &Path, factors: &[(&str, f64)]) -> PathBuf {
    let mut checkpoint = Checkpoint::read(&model::file()).expect("the model");
    for (name, factor) in factors {
        let tensor = (&checkpoint.tensors[*name] * *factor).expect("numbers");
        checkpoint.tensors.insert((*name).to_owned(), tensor);
    }
    checkpoint.write(path).expect("written");
    path.to_owned()
}

/// Goal: a model that cannot serve is named as it was given, and claims nothing: the corrected command starts. Method: files that
/// each fail at another place, and a good model whose learner cannot start, one after another on one folder.
#[test]
fn a_model_that_cannot_serve_claims_no_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let whole = fs::read(model::file()).expect("the model");
    let truncated = folder.path().join("truncated.gguf");
    fs::write(&truncated, &whole[..whole.len() - 1000]).expect("written");
    let nan = spoilt(&folder.path().join("nan.gguf"), &[("output_norm.weight", f64::NAN)]);
    let loud = [("output_norm.weight", 3e38), ("token_embd.weight", 1e3)];
    let overflowing = spoilt(&folder.path().join("overflowing.gguf"), &loud);
    let files =
        [(truncated, "not inside the file"), (nan, "not finite at number 0"), (overflowing, "logits are not finite")];
    for (file, what) in files {
        let said = refused(&mut serve(&data, &file, &["ppo.enabled=false"]));
        assert!(said.contains(what) && said.contains("(policy.model)"), "{said}");
        assert!(said.contains(&file.display().to_string()) && !said.contains("policy-0.gguf"), "{said}");
        assert!(!data.join("versions/policy-0.gguf").exists(), "{}: its copy is gone", file.display());
    }
    let other = folder.path().join("other.gguf");
    model::write(&other, 5);
    let learning = ["ppo.enabled=true", "reward.source=feedback", "reward.feedback_fallback=drop"];
    let sets = [&learning[..], &["ppo.gate_file=missing.txt"]].concat();
    assert!(refused(&mut serve(&data, &other, &sets)).contains("ppo.gate_file"));
    let mut daemon = Process::serve(&data, &["ppo.enabled=false"]);
    let body = json!({"prompt": "a", "max_tokens": 1}).to_string();
    let ask = request("POST", "/v1/completions", &[("content-type", "application/json")], body.as_bytes());
    client::raw(daemon.address, &ask).ok();
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
    let said = refused(&mut serve(&data, &other, &["ppo.enabled=false"]));
    assert!(said.contains("was begun with the model of digest"), "a folder that has served is its model's: {said}");
}

/// Goal: a refusal leaves the folder as it found it, so that the next command is refused too. Method: a folder whose database was
/// taken away, a start, and the commands that an empty database would satisfy.
#[test]
fn versions_without_their_database_are_refused_by_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    publish_versions(data, 2);
    fs::remove_file(data.join("rollouts.sqlite")).expect("it was there");
    for _ in 0..2 {
        let said = refused(&mut serve(data, &model::file(), &["ppo.enabled=false"]));
        assert!(said.contains("holds 2 files of trained versions"), "{said}");
        assert!(!data.join("rollouts.sqlite").exists(), "no empty database takes its place");
    }
    for args in [&["policies", "list"][..], &["rollouts", "forget", "--user", "ann"]] {
        let said = refused(&mut honed(data, args));
        assert!(said.contains("no data directory of honed"), "{args:?}: {said}");
    }
}

/// Goal: a start that cannot serve what is live says so and names the way on; nobody gets older weights in their place unasked.
/// Method: a version whose load fails, a start, the command that the refusal names, and another start.
#[test]
fn a_live_version_that_cannot_be_loaded_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    publish_versions(data, 1);
    let sets = ["ppo.enabled=false", "daemon.failpoints=engine.load=error"];
    let said = refused(&mut serve(data, &model::file(), &sets));
    assert!(said.contains("policy@1, the live version, cannot be loaded") && said.contains("activate N"), "{said}");
    assert!(honed(data, &["policies", "activate", "0"]).output().expect("it ends by itself").status.success());
    let daemon = Process::serve(data, &sets);
    let policies = client::raw(daemon.address, &request("GET", "/v1/policies", &[], b"")).ok();
    let is_live = |policy: &&serde_json::Value| policy["state"] == "live";
    let live = policies["data"].as_array().expect("a list").iter().find(is_live).expect("one is live");
    assert_eq!(live["version"], 0);
}

/// Goal: weights that the database does not know are not removed, and whoever looks for them finds their name. Method: a copy of a
/// version under a number that nobody gave, and one start.
#[test]
fn a_weight_file_that_the_database_does_not_know_is_kept_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    publish_versions(&data, 1);
    let [known, unknown] = ["policy-1.gguf", "policy-78.gguf"].map(|name| data.join("versions").join(name));
    fs::copy(&known, &unknown).expect("room");
    drop(Process::serve_logged(&data, &["ppo.enabled=false"], &log, "info"));
    let kept = data.join("versions/unknown/policy-78.gguf");
    assert_eq!(fs::read(&kept).expect("kept"), fs::read(&known).expect("the live version"));
    assert!(!unknown.exists());
    let log = fs::read_to_string(log).expect("a log");
    let line = log.lines().find(|line| line.contains("WARN") && line.contains("aside")).expect("a warning");
    assert!(line.contains(&kept.display().to_string()), "{line}");
}

/// Goal: what only reads needs nothing that it may write. Method: a folder without write permission, looked at as nobody where the
/// test runs as root, whom no permission stops; then with a write-ahead log that only a writer could take in.
#[test]
fn a_folder_that_nobody_can_write_is_read() {
    // SAFETY: it only asks.
    let is_root = unsafe { libc::geteuid() } == 0;
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    publish_versions(&data, 2);
    fs::create_dir(&out).expect("a folder");
    if is_root {
        for path in [folder.path(), &data, &out] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("it is ours");
        }
    }
    fs::set_permissions(&data, Permissions::from_mode(0o555)).expect("it is ours");
    let run = |args: &[&str]| {
        let mut command = honed(&data, args);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.output()
    };
    match run(&["policies", "list"]) {
        Err(error) if is_root && error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: nobody may not run the binary where it lies");
            return;
        }
        output => drop(output.expect("it runs")),
    }
    let file = out.join("exported.gguf");
    let export = ["policies", "export", "1", "--out", file.to_str().expect("UTF-8")];
    let commands: [(&[&str], &str); 7] = [
        (&["policies", "list"], "policy@2"),
        (&["policies", "show", "1"], "policy@1"),
        (&["rollouts", "stats"], "feedback"),
        (&["rollouts", "export"], ""),
        (&["audit"], "promote"),
        (&["why", "1"], "policy@2 came from it"),
        (&export, ""),
    ];
    for (args, part) in commands {
        let output = run(args).expect("it runs");
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        let told = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(told.contains(part), "{args:?}: {told}");
    }
    assert_eq!(fs::read(file).expect("written"), fs::read(data.join("versions/policy-1.gguf")).expect("readable"));

    fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("it is ours");
    fs::write(data.join("rollouts.sqlite-wal"), [7; 4096]).expect("room");
    fs::set_permissions(&data, Permissions::from_mode(0o555)).expect("it is ours");
    let output = run(&["policies", "list"]).expect("it runs");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be written") && said.contains(&data.display().to_string()), "{said}");
    fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("it is ours");
}

/// Goal: what is in the way of the data directory is named with the knob that chose it. Method: a file, and a link to nothing.
#[test]
fn what_is_no_data_directory_is_named_with_its_knob() {
    let folder = tempfile::tempdir().expect("a folder");
    let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
    fs::write(&file, b"").expect("written");
    symlink(folder.path().join("nowhere"), &link).expect("linked");
    for (data, what) in [(file, "it is no folder"), (link, "a link that leads nowhere")] {
        let said = refused(&mut serve(&data, &model::file(), &["ppo.enabled=false"]));
        assert!(said.contains(what) && said.contains("daemon.data_dir"), "{said}");
        assert!(said.contains(&data.display().to_string()), "{said}");
    }
}
