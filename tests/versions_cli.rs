//! What an operator does about versions and users from the command line: in a folder that nobody has, and beside a daemon.

mod daemons;
mod shown;

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use policy::PolicyVersion;
use ppo::{
    Registry, RolloutLog,
    registry::Candidate,
    rollout_log::{LogSettings, VersionReport, Who},
};

use crate::harness::{
    TestDaemon,
    client::{self, request},
    model,
    process::{self, Process},
    versions::publish_versions,
};

fn honed(data: &Path, args: &[&str]) -> Output {
    let command = Command::new(process::binary()).args(args).arg("--data-dir").arg(data).output();
    command.expect("the binary runs")
}

#[track_caller]
fn told(data: &Path, args: &[&str]) -> String {
    let output = honed(data, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
fn refused(data: &Path, args: &[&str]) -> String {
    let output = honed(data, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn activate<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&["policies", "activate", "1"], rest].concat()
}

fn states(data: &Path) -> Vec<String> {
    let list = told(data, &["policies", "list", "--json"]);
    let rows = list.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    rows.map(|row| row["state"].as_str().expect("a state").to_owned()).collect()
}

/// Goal: every step of a rollback can be taken without a daemon, and none that loses what must stay. Method: four versions, looked
/// at, compared, activated and pruned.
#[test]
fn versions_are_looked_at_activated_and_pruned_without_a_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    publish_versions(data, 4);
    let shown = told(data, &["policies", "show", "4"]);
    for part in ["policy@4", "live", "policy@3", "policy-4.gguf"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let row: Value = serde_json::from_str(&told(data, &["policies", "show", "2", "--json"])).expect("JSON");
    assert_eq!((&row["version"], &row["parent"]), (&json!(2), &json!(1)));
    let bytes = std::fs::metadata(data.join("versions/policy-2.gguf")).expect("its file").len();
    assert_eq!(
        (&row["bytes"], &row["config_digest"], &row["reward_versions"]),
        (&json!(bytes), &json!(null), &json!([]))
    );
    let used: Value =
        serde_json::from_str(&told(data, &["policies", "show", "2", "--json", "--rollouts"])).expect("JSON");
    assert_eq!((&used["version"], &used["used"]), (&json!(2), &json!([])), "no update made it");
    let difference = told(data, &["policies", "diff", "1", "2"]);
    assert!(difference.contains("policy@1") && difference.contains("policy@2"), "{difference}");
    assert!(refused(data, &["policies", "show", "9"]).contains("there is no policy@9"));

    assert!(refused(data, &["policies", "activate", "1", "--expected-live", "2"]).contains("policy@4"));
    assert!(
        told(data, &["policies", "activate", "1", "--expected-live", "4"])
            .contains("policy@1 is live in place of policy@4")
    );
    assert_eq!(states(data), ["retained", "live", "retained", "retained", "draining"]);
    assert!(refused(data, &["policies", "activate", "9"]).contains("policy@9"));
    let why = told(data, &["why", "1"]);
    assert!(
        why.contains("policy@1 is live") && why.contains("It came after policy@0") && why.contains("policy@2 came"),
        "{why}"
    );
    assert!(told(data, &["why", "0"]).contains("the start that everything else came from"));

    let would = told(data, &["policies", "prune", "--keep", "1", "--dry-run"]);
    assert!(
        would.contains("would remove policy@2") && would.contains("policy@3") && !would.contains("policy@4"),
        "{would}"
    );
    assert!(data.join("versions/policy-2.gguf").exists(), "a dry run removes nothing");
    told(data, &["policies", "prune", "--keep", "1"]);
    assert_eq!(states(data), ["retained", "live", "retired", "retired", "retained"]);
    let on_disk = |n: u64| data.join(format!("versions/policy-{n}.gguf")).exists();
    assert_eq!((0..5).map(on_disk).collect::<Vec<_>>(), [true, true, false, false, true]);
    assert!(told(data, &["why", "2"]).contains("its file is gone: beyond ppo.keep_versions"));
    assert!(refused(data, &["policies", "activate", "2"]).contains("policy@2"));
}

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => all.extend(contents(&path)),
            path => all.push((path.clone(), std::fs::read(&path).expect("readable"))),
        }
    }
    all.sort();
    all
}

/// Goal: a dry run changes nothing, whatever it finds. Method: a folder in which a start would repair much, its weights before and
/// after.
#[test]
fn a_dry_run_repairs_nothing_and_removes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    publish_versions(data, 3);
    let versions = data.join("versions");
    std::fs::write(versions.join("policy-50.gguf"), b"nobody's").expect("written");
    std::fs::write(versions.join("policy-3.gguf"), b"damaged").expect("written");
    let (before, states_before) = (contents(&versions), states(data));
    assert!(told(data, &["policies", "prune", "--keep", "1", "--dry-run"]).contains("would remove policy@1"));
    assert_eq!((contents(&versions), states(data)), (before, states_before));
}

/// Goal: a folder that is no data directory is named and left as it is: made one, it would be empty, and what is asked of it would
/// seem done. Method: every command on an empty folder.
#[test]
fn a_folder_that_is_no_data_directory_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let forget = ["rollouts", "forget", "--user", "ann"];
    let commands: [&[&str]; 6] = [
        &forget,
        &["policies", "activate", "1"],
        &["policies", "prune", "--dry-run"],
        &["policies", "list"],
        &["audit"],
        &["why", "1"],
    ];
    for command in commands {
        let error = refused(folder.path(), command);
        assert!(error.contains("no data directory of honed") && error.contains("--data-dir"), "{command:?}: {error}");
        assert!(contents(folder.path()).is_empty(), "{command:?}");
    }
}

/// Goal: what is exported is what was published. Method: a good version, then the same with a byte of its file changed.
#[test]
fn a_damaged_version_is_not_exported() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    publish_versions(&data, 2);
    let export = |name: &str| {
        let out = folder.path().join(name);
        let args = ["policies", "export", "1", "--out", out.to_str().expect("UTF-8")].map(str::to_owned);
        (out, args)
    };
    let file = data.join("versions/policy-1.gguf");
    let good = std::fs::read(&file).expect("readable");
    let (out, args) = export("good.gguf");
    told(&data, &args.each_ref().map(String::as_str));
    assert_eq!(std::fs::read(out).expect("written"), good);
    let mut bad = good;
    *bad.last_mut().expect("not empty") ^= 1;
    std::fs::write(&file, bad).expect("written");
    let (out, args) = export("bad.gguf");
    assert!(refused(&data, &args.each_ref().map(String::as_str)).contains("policy@1 is damaged: expected digest"));
    assert!(!out.exists());
}

/// Goal: what is told of a version is what happened to it. Method: of one that the learner made and the watch rolled back, one
/// that was brought from outside and never activated, and one whose file was damaged since.
#[test]
fn why_tells_rollbacks_imports_and_damage_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    publish_versions(data, 2);
    let settings = LogSettings { commit_ms: 10, queue: 64, rescore_on_feedback: false };
    let log = RolloutLog::open(data, &settings).expect("a log");
    let registry = Registry::open(log.clone(), &model::file(), 100).expect("a registry");
    let (made, brought) = (PolicyVersion(2), PolicyVersion(3));
    model::write(&registry.path(brought), 9);
    let digest = policy::checkpoint::digest(&registry.path(brought)).expect("a digest");
    let importer = registry.on_behalf_of(&Who::folder());
    importer.register(&Candidate { version: brought, parent: made, digest, n_rollouts: 0 }).expect("registered");
    importer.keep(brought, VersionReport::default()).expect("kept");
    let watch = registry.on_behalf_of(&Who::watch());
    watch.roll_back(PolicyVersion(1), made, "rolled back: reward fell from 1.000 to 0.100").expect("rolled back");
    registry.retain(&[]).expect("retained");
    log.close();
    drop((log, registry, importer, watch));

    let why = |n: &str| told(data, &["why", n]);
    let rolled_back = "policy@2 was live and can be activated again: rolled back: reward fell from 1.000 to 0.100";
    assert!(why("2").contains(rolled_back), "{}", why("2"));
    assert!(why("2").contains("policy@3 was brought from outside while it was live."), "{}", why("2"));
    assert!(!why("2").contains("came from it"), "{}", why("2"));
    assert!(why("1").contains("policy@2 came from it."), "{}", why("1"));
    let import = why("3");
    assert!(import.contains("policy@3 was never live and can be activated\n"), "{import}");
    assert!(
        import.contains("It was brought from outside on") && import.contains("while policy@2 was live"),
        "{import}"
    );

    let file = data.join("versions/policy-2.gguf");
    let mut bytes = std::fs::read(&file).expect("its file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    assert!(why("2").contains("policy@2 was live and cannot be activated again, for its file is damaged: rolled back"));
    std::fs::remove_file(data.join("versions/policy-3.gguf")).expect("removed");
    assert!(why("3").contains("policy@3 was never live and cannot be activated, for its file is missing"));
}

/// Goal: that an old version is gone is housekeeping, and whoever wants it is told so. Method: a version that was pruned is activated,
/// in a folder and beside a daemon whose log is looked at.
#[test]
fn a_version_beyond_the_retention_says_that_it_is_retired() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    publish_versions(&data, 3);
    told(&data, &["policies", "prune", "--keep", "1"]);
    let why = "policy@1 is retired and its file removed: beyond ppo.keep_versions";
    assert!(refused(&data, &activate(&[])).contains(why));
    let daemon = Process::serve_logged(&data, &["ppo.enabled=false"], &log, "info");
    client::until_ready(daemon.address);
    let request = request("POST", "/v1/policies/1/activate", &[("content-type", "application/json")], b"{}");
    let error = client::raw(daemon.address, &request).error(409);
    assert_eq!((error["message"].as_str(), error["code"].as_str()), (Some(why), Some("conflict")));
    drop(daemon);
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(!log.contains("ERROR"), "{log}");
}

/// Goal: a user can be forgotten, by the route and by the command, beside a daemon and without one. Method: two users, feedback of
/// one on the other's, and the log afterwards.
#[test]
fn a_user_can_be_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let ask = |daemon: &TestDaemon, user: &str| {
        daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2, "n": 2, "user": user})).ok()["id"]
            .clone()
    };
    let users = |daemon: &TestDaemon| -> Vec<String> {
        let rows = daemon.get("/v1/rollouts").ok()["data"].as_array().expect("rows").clone();
        rows.iter().map(|row| row["user"].as_str().expect("a user").to_owned()).collect()
    };
    let daemon = TestDaemon::builder().start_in(&data);
    let bobs = ask(&daemon, "bob");
    ask(&daemon, "ann");
    ask(&daemon, "eve");
    daemon.wait_for("all are committed", |d| users(d).len() == 6);
    daemon.post("/v1/feedback", &json!({"id": bobs, "label": "up", "user": "ann"})).ok();
    for bad in [json!({}), json!({"user": ""}), json!({"user": 5})] {
        assert_eq!(daemon.post("/v1/rollouts/forget", &bad).error(400)["param"], "user", "{bad}");
    }
    let report = daemon.post("/v1/rollouts/forget", &json!({"user": "ann"})).ok();
    assert_eq!((&report["rollouts"], &report["feedback"], &report["in_update"]), (&json!(2), &json!(1), &json!(0)));
    assert_eq!(users(&daemon), ["bob", "bob", "eve", "eve"]);
    assert_eq!(daemon.metric("honed_rollouts_dropped_total{reason=\"forgotten\"}"), 2.0);
    daemon.stop();

    let process = Process::serve(&data, &["ppo.enabled=false"]);
    let said = told(&data, &["rollouts", "forget", "--user", "eve"]);
    assert_eq!(said, "removed 2 rollouts and 0 words of feedback\n");
    drop(process);
    assert_eq!(told(&data, &["rollouts", "forget", "--user", "eve"]), "removed 0 rollouts and 0 words of feedback\n");
    assert_eq!(told(&data, &["rollouts", "forget", "--user", "bob"]), "removed 2 rollouts and 0 words of feedback\n");
    assert!(told(&data, &["rollouts", "export"]).is_empty());
    assert_eq!(honed(&data, &["rollouts", "forget", "--user", ""]).status.code(), Some(2), "called wrongly");
}
