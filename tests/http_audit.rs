//! Who did what: the audit log over the socket and from the command line.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::harness::{
    client::{self, Reply, request},
    model,
    process::{self, Process},
    versions::publish_versions,
};

/// Two administrators' keys, and the first digits of `printf KEY | sha256sum`.
const ALICE: (&str, &str) = ("alices-key", "key:78cb2567");
const BOB: (&str, &str) = ("bobs-key", "key:d4dec180");

struct World {
    folder: tempfile::TempDir,
    sets: Vec<String>,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        publish_versions(&folder.path().join("data"), 2);
        let keys = folder.path().join("keys");
        std::fs::write(&keys, format!("{}\n{}\n", ALICE.0, BOB.0)).expect("written");
        std::fs::create_dir(folder.path().join("models")).expect("a folder");
        std::fs::write(folder.path().join("models/broken.gguf"), b"GGUF").expect("written");
        let reward = folder.path().join("reward.gguf");
        model::write_reward(&reward, 1, 0.0);
        let sets = vec![
            format!("reward.model={}", reward.display()),
            format!("reward.folder={}", folder.path().display()),
            format!("daemon.admin_keys_file={}", keys.display()),
            format!("daemon.import_dir={}", folder.path().join("models").display()),
        ];
        World { folder, sets }
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn serve(&self) -> Process {
        let sets: Vec<&str> = self.sets.iter().map(String::as_str).collect();
        Process::serve(&self.data(), &sets)
    }
}

fn ask(daemon: &Process, (key, _): (&str, &str), method: &str, path: &str, body: &Value) -> Reply {
    let authorization = format!("Bearer {key}");
    let headers =
        [("authorization", authorization.as_str()), ("content-type", "application/json"), ("x-request-id", "mine-1")];
    let body = if method == "GET" { String::new() } else { body.to_string() };
    client::raw(daemon.address, &request(method, path, &headers, body.as_bytes()))
}

fn honed(data: &Path, args: &[&str]) -> Output {
    let command = Command::new(process::binary()).args(args).arg("--data-dir").arg(data).output();
    command.expect("the binary runs")
}

/// Rows as the command line tells them.
fn rows(data: &Path) -> Vec<Value> {
    let output = honed(data, &["audit", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// `actor action subject outcome`.
fn told(rows: &[Value]) -> Vec<String> {
    let word = |row: &Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
    let tell = |row: &Value| ["actor", "action", "subject", "outcome"].map(|name| word(row, name)).join(" ");
    rows.iter().map(tell).collect()
}

/// Goal: afterwards one can say who did what, from where, and what came of it, while the daemon runs and when it is gone. Method:
/// acts of two administrators, good and bad ones, a signal, and acts of the command line without a daemon.
#[test]
fn every_administrative_act_leaves_a_row_that_says_whose_it_was() {
    let world = World::new();
    let daemon = world.serve();
    let n_before = rows(&world.data()).len();
    let activate = |n: u64| format!("/v1/policies/{n}/activate");
    ask(&daemon, ALICE, "POST", &activate(1), &json!({"expected_live": 2})).ok();
    ask(&daemon, BOB, "POST", &activate(2), &json!({"expected_live": 2})).error(409);
    ask(&daemon, BOB, "POST", &activate(9), &json!({})).error(404);
    ask(&daemon, BOB, "POST", "/v1/policies", &json!({"path": "broken.gguf"})).error(400);
    ask(&daemon, ALICE, "POST", "/v1/training/pause", &json!({})).ok();
    ask(&daemon, BOB, "POST", "/v1/training/resume", &json!({})).ok();
    ask(&daemon, BOB, "POST", "/v1/training/step", &json!({})).error(409);
    ask(&daemon, ALICE, "POST", "/v1/rollouts/forget", &json!({"user": "carol"})).ok();
    ask(&daemon, ALICE, "POST", "/v1/rewards/model", &json!({"path": "none.gguf"})).error(400);
    let nobody = ("no-key", "");
    ask(&daemon, nobody, "POST", &activate(0), &json!({})).error(401);
    ask(&daemon, nobody, "GET", "/v1/audit", &json!({})).error(401);
    daemon.signal(libc::SIGHUP);
    let began = std::time::Instant::now();
    let is_told = || told(&rows(&world.data())).iter().any(|row| row.starts_with("signal reward_model"));
    while !is_told() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "the signal leaves no row");
    }
    let (alice, bob) = (ALICE.1, BOB.1);
    let all = rows(&world.data());
    let new = &all[n_before..];
    let carol = ppo::rollout_log::user_subject("carol");
    let built_in = new.last().expect("a row")["subject"].as_str().expect("a model").to_owned();
    assert!(built_in.starts_with("model@"), "{built_in}");
    assert_eq!(
        told(new),
        [
            format!("{alice} activate policy@1 done"),
            format!("{bob} activate policy@2 refused"),
            format!("{bob} activate policy@9 refused"),
            format!("{bob} import broken.gguf refused"),
            format!("{alice} pause - done"),
            format!("{bob} resume - done"),
            format!("{bob} step - refused"),
            format!("{alice} forget {carol} done"),
            format!("{alice} reward_model none.gguf refused"),
            "signal reload_keys - done".to_owned(),
            format!("signal reward_model {built_in} done"),
        ]
    );
    for row in &new[..9] {
        assert_eq!(row["request"], "mine-1", "{row}");
        assert!(row["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")), "{row}");
    }
    assert!(
        new[1]["detail"].as_str().is_some_and(|why| why.contains("expected policy@2, found policy@1")),
        "{}",
        new[1]
    );
    let page = ask(&daemon, BOB, "GET", &format!("/v1/audit?after={n_before}&limit=2"), &json!({})).ok();
    assert_eq!(page["data"], json!(new[..2]), "the route and the command tell the same");
    assert_eq!(page["next_after"], new[1]["number"]);
    for bad in ["limit=0", "limit=1001", "after=x", "after=-1"] {
        ask(&daemon, BOB, "GET", &format!("/v1/audit?{bad}"), &json!({})).error(400);
    }
    drop(daemon);

    // What was answered is there although the process was killed.
    assert_eq!(rows(&world.data())[..all.len()], all[..]);
    the_command_line_is_somebody_too(&world, &carol);
    no_file_holds_a_key(&world);
}

fn the_command_line_is_somebody_too(world: &World, carol: &str) {
    let n_before = rows(&world.data()).len();
    assert!(honed(&world.data(), &["policies", "activate", "2"]).status.success());
    assert!(!honed(&world.data(), &["policies", "activate", "1", "--expected-live", "1"]).status.success());
    assert!(honed(&world.data(), &["rollouts", "forget", "--user", "carol"]).status.success());
    assert!(honed(&world.data(), &["policies", "prune", "--keep", "0"]).status.success());
    assert_eq!(
        told(&rows(&world.data())[n_before..]),
        [
            "cli activate policy@2 done".to_owned(),
            "cli activate policy@1 refused".to_owned(),
            format!("cli forget {carol} done"),
            "cli retire policy@1 done".to_owned(),
        ]
    );
    let table =
        String::from_utf8(honed(&world.data(), &["audit", "--after", "2", "--limit", "3"]).stdout).expect("text");
    assert_eq!(table.lines().count(), 4, "a head and three rows: {table}");
}

fn no_file_holds_a_key(world: &World) {
    for file in std::fs::read_dir(world.data()).expect("a folder") {
        let path = file.expect("readable").path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        for secret in [ALICE.0, BOB.0] {
            let holds = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!holds, "{} holds a key", path.display());
        }
    }
}
