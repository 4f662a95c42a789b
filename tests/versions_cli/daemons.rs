//! Which daemon a command asks, and what it says where none answers.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ppo::{RolloutLog, rollout_log::LogSettings};
use serde_json::{Value, json};

use super::{activate, refused, told};
use crate::harness::{
    client::{self, Reply, request},
    process::Process,
    versions::publish_versions,
};

fn post(daemon: &Process, path: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json")];
    client::raw(daemon.address, &request("POST", path, &headers, body.to_string().as_bytes()))
}

fn live(address: SocketAddr) -> Value {
    client::raw(address, &request("GET", "/v1/models/policy", &[], b"")).ok()["version"].clone()
}

/// A daemon with two versions, the second live, in a folder that has this name.
fn daemon_in(folder: &Path, name: &str) -> (PathBuf, Process) {
    let data = folder.join(name);
    publish_versions(&data, 2);
    let daemon = Process::serve(&data, &["ppo.enabled=false"]);
    (data, daemon)
}

/// Has a daemon answer a user, and waits until that is committed.
fn answer(daemon: &Process, user: &str) {
    post(daemon, "/v1/completions", &json!({"prompt": "a", "max_tokens": 1, "user": user})).ok();
    let start = std::time::Instant::now();
    while users(daemon).is_empty() {
        assert!(start.elapsed() < std::time::Duration::from_secs(30), "waited in vain for the commit");
        std::thread::yield_now();
    }
}

fn users(daemon: &Process) -> Vec<Value> {
    let rows = client::raw(daemon.address, &request("GET", "/v1/rollouts", &[], b"")).ok()["data"].clone();
    rows.as_array().expect("rows").iter().map(|row| row["user"].clone()).collect()
}

fn log_in(data: &Path) -> RolloutLog {
    RolloutLog::open(data, &LogSettings { commit_ms: 10, queue: 64, rescore_on_feedback: false }).expect("a log")
}

/// Goal: beside a daemon the same command has the daemon do it, and says where its key is to be when that is not good. Method: a
/// daemon with an admin key; no key, a wrong one and the right one.
#[test]
fn a_daemon_that_has_the_folder_activates_for_the_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    publish_versions(&data, 2);
    let key_file = |name: &str, key: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, key).expect("written");
        format!("daemon.admin_keys_file={}", path.display())
    };
    let (admin, wrong) = (key_file("keys", "root\n"), key_file("wrong", "toor\n"));
    let daemon = Process::serve(&data, &["ppo.enabled=false", &admin]);
    let live = || live(daemon.address);
    assert_eq!(live(), 2);
    for (keys, says) in [(&[][..], "found no admin key"), (&["--set", wrong.as_str()][..], "has no such key")] {
        let error = refused(&data, &activate(keys));
        for part in ["a valid API key is required", says, "HONED_ADMIN_KEYS", "daemon.admin_keys_file"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }
    let keyed = ["--set", admin.as_str()];
    assert!(refused(&data, &activate(&[&keyed[..], &["--expected-live", "0"]].concat())).contains("policy@2"));
    assert!(told(&data, &activate(&keyed)).contains("policy@1 is live; the daemon serves it"));
    assert_eq!(live(), 1);
    assert!(refused(&data, &["policies", "prune"]).contains("a daemon has this folder"));
}

/// Goal: a command acts on the folder that it names and on no other. Method: two daemons that know the same user and the same
/// versions; a command for the first one's folder that is told where the second one listens.
#[test]
fn a_command_reaches_the_daemon_of_its_own_folder_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, ours) = daemon_in(folder.path(), "ours");
    let (_, theirs) = daemon_in(folder.path(), "theirs");
    answer(&ours, "u1");
    answer(&theirs, "u1");
    let elsewhere = theirs.address.to_string();
    let at = ["--listen", elsewhere.as_str()];
    let forget = ["rollouts", "forget", "--user", "u1", at[0], at[1]];
    assert_eq!(told(&data, &forget), "removed 1 rollouts and 0 words of feedback\n");
    assert!(told(&data, &activate(&at)).contains("policy@1 is live; the daemon serves it"));
    assert_eq!((users(&ours), live(ours.address)), (vec![], json!(1)));
    assert_eq!((users(&theirs), live(theirs.address)), (vec![json!("u1")], json!(2)));
}

/// Goal: what listens on every address, for names of its own, still hears the commands of its machine. Method: such a daemon.
#[test]
fn a_daemon_on_every_address_hears_its_own_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    publish_versions(&data, 2);
    let sets = ["ppo.enabled=false", "daemon.listen=0.0.0.0:0", "daemon.allowed_hosts=chat.example"];
    let daemon = Process::serve(&data, &sets);
    assert!(daemon.address.ip().is_unspecified());
    assert!(told(&data, &activate(&[])).contains("policy@1 is live; the daemon serves it"));
    assert_eq!(live(SocketAddr::from(([127, 0, 0, 1], daemon.address.port()))), 1);
}

/// Goal: where nobody answers, the message names who has the folder. Method: a killed daemon, whose lock file stays behind; then
/// this process has its folder, first silent, then at a port where nothing listens.
#[test]
fn a_holder_that_does_not_answer_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, daemon) = daemon_in(folder.path(), "data");
    let killed = daemon.address.to_string();
    drop(daemon);
    let log = log_in(&data);
    let pid = format!("pid {}", std::process::id());
    let error = refused(&data, &activate(&[]));
    assert!(error.contains(&pid) && error.contains("is not listening yet"), "{error}");
    assert!(!error.contains(&killed), "{error}");

    // Not a port that was free a moment ago: another test's daemon may have it by now.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    log.announce(nowhere).expect("written");
    let error = refused(&data, &activate(&[]));
    assert!(error.contains(&pid) && error.contains(&format!("gave no answer at http://{nowhere}")), "{error}");
    log.close();
    drop(log);
    assert!(told(&data, &activate(&[])).contains("the next daemon serves it"));
}
