//! Another reward model takes over while the daemon runs: who is judged by whom, and what leaves things as they are.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use candle_core::quantized::gguf_file::Value as Metadatum;
use policy::checkpoint::Checkpoint;
use serde_json::{Value, json};

use crate::harness::{Builder, TestDaemon, client, model, process::Process};

/// A folder with these reward models, which differ in the bias of their heads alone.
fn folder_of(models: &[(&str, usize, f32)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, n_heads, bias) in models {
        model::write_reward(&folder.path().join(name), *n_heads, *bias);
    }
    folder
}

/// A daemon that `a.gguf` of this folder judges for, and that may take others from there.
fn judging(folder: &Path) -> Builder {
    TestDaemon::builder()
        .set(format!("reward.model={}", folder.join("a.gguf").display()))
        .set(format!("reward.folder={}", folder.display()))
}

fn score_of(daemon: &TestDaemon) -> (f64, String) {
    let reply = daemon.post("/score", &json!({"text_1": "the sky", "text_2": "is vast"}));
    let version = reply.header("x-honed-reward-version").expect("a judge").to_owned();
    (reply.ok()["data"][0]["score"].as_f64().expect("a score"), version)
}

fn swap(daemon: &TestDaemon, path: &str) -> Value {
    daemon.post("/v1/rewards/model", &json!({"path": path})).ok()
}

#[test]
fn another_model_judges_from_the_next_request_on() {
    let folder = folder_of(&[("a.gguf", 1, 0.0), ("b.gguf", 3, 2.0)]);
    let daemon = judging(folder.path()).start();
    let (old_score, old) = score_of(&daemon);
    let card = daemon.get("/v1/rewards/model").ok();
    assert_eq!((&card["version"], &card["replaced"]), (&json!(old), &Value::Null));
    assert!(daemon.get("/metrics").text().contains(&format!("honed_reward_version_info{{version=\"{old}\"}} 1")));

    let change = swap(&daemon, "b.gguf");
    let new = change["version"].as_str().expect("a version").to_owned();
    assert!(new.starts_with("model@") && new.ends_with("/mean") && new != old, "{new}");
    assert_eq!((&change["replaced"], change["normalization"].as_array().map(Vec::len)), (&json!(old), Some(3)));
    let (new_score, judge) = score_of(&daemon);
    assert_eq!(judge, new);
    assert!((new_score - old_score).abs() > 0.5, "{old_score} {new_score}");
    assert_eq!(daemon.get("/v1/models/reward").ok()["reward_version"], *new);
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.contains(&format!("honed_reward_version_info{{version=\"{new}\"}} 1")), "{metrics}");
    assert!(!metrics.contains(&old), "whoever judges no more is not shown");

    // Pinned to the old one: it is gone. Without a path: the configured file again. A second time: nothing to do.
    let pinned = format!("reward@{}", old.strip_prefix("model@").expect("a model"));
    daemon.post("/score", &json!({"model": pinned, "text_1": "a", "text_2": "b"})).error(404);
    let wrong = json!({"path": "b.gguf", "expected": old});
    assert_eq!(daemon.post("/v1/rewards/model", &wrong).error(409)["code"], "conflict");
    assert_eq!(daemon.send("POST", "/v1/rewards/model", &[], b"").ok()["version"], *old);
    assert_eq!(daemon.post("/v1/rewards/model", &json!({"expected": old})).ok()["replaced"], Value::Null);
    assert_eq!(score_of(&daemon), (old_score, old));
    for (outcome, n) in [("seated", 2), ("unchanged", 1), ("refused", 1)] {
        let line = format!("honed_reward_model_loads_total{{outcome=\"{outcome}\"}}");
        assert_eq!(daemon.metric(&line), f64::from(n), "{outcome}");
    }
}

/// Goal: how well a reward model judged what was held back is told while it judges, and of no other. Method: a file that says
/// so in place of one that does not, and back.
#[test]
fn the_accuracy_that_a_file_tells_is_a_metric_while_it_judges() {
    let folder = folder_of(&[("a.gguf", 1, 0.0), ("b.gguf", 1, 2.0)]);
    let path = folder.path().join("b.gguf");
    let mut checkpoint = Checkpoint::read(&path).expect("a model");
    checkpoint.metadata.set("honed.reward.held_out_accuracy", Metadatum::F64(0.75));
    checkpoint.metadata.set("honed.reward.held_out_pairs", Metadatum::U64(128));
    checkpoint.write(&path).expect("written");
    let daemon = judging(folder.path()).start();
    let shown = || {
        let text = daemon.get("/metrics").text();
        let lines = text.lines().filter(|line| line.starts_with("honed_reward_accuracy{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((shown(), &daemon.get("/v1/rewards/model").ok()["held_out"]), (Vec::new(), &Value::Null));
    let change = swap(&daemon, "b.gguf");
    assert_eq!(change["held_out"], json!({"accuracy": 0.75, "pairs": 128}));
    let version = change["version"].as_str().expect("a version");
    assert_eq!(shown(), [format!("honed_reward_accuracy{{version=\"{version}\"}} 0.75")]);
    swap(&daemon, "a.gguf");
    assert_eq!(shown(), Vec::<String>::new());
}

/// Goal: nothing that cannot judge takes the seat. Method: every kind of bad file, inside the folder and out of it; after each
/// the old model gives the same score, and at the end a good one is still taken.
#[test]
fn files_that_cannot_judge_leave_the_old_model_judging() {
    let folder =
        folder_of(&[("a.gguf", 1, 0.0), ("b.gguf", 1, 2.0), ("nan.gguf", 1, f32::NAN), ("inf.gguf", 2, f32::INFINITY)]);
    let outside = folder_of(&[("c.gguf", 1, 1.0)]);
    let at = |name: &str| folder.path().join(name);
    let good = std::fs::read(at("b.gguf")).expect("a file");
    std::fs::write(at("half.gguf"), &good[..good.len() / 2]).expect("a file");
    std::fs::write(at("empty.gguf"), b"").expect("a file");
    std::fs::write(at("text.gguf"), b"not a model\n").expect("a file");
    let altered = |name: &str, alter: fn(&mut Checkpoint)| {
        let mut checkpoint = Checkpoint::read(&at("b.gguf")).expect("a model");
        alter(&mut checkpoint);
        checkpoint.write(&at(name)).expect("a file");
    };
    altered("vocabulary.gguf", |c| c.metadata.set("honed.reward.vocabulary_digest", Metadatum::String("other".into())));
    altered("gain.gguf", |c| c.metadata.set("honed.reward.gain", Metadatum::F64(-1.0)));
    altered("headless.gguf", |c| c.tensors.retain(|name, _| !name.contains("reward") && !name.contains("head")));
    std::fs::copy(model::file(), at("policy.gguf")).expect("a file");
    std::fs::create_dir(at("folder.gguf")).expect("a folder");
    symlink(outside.path().join("c.gguf"), at("out.gguf")).expect("a link");
    let fifo = Command::new("mkfifo").arg(at("fifo.gguf")).status().expect("coreutils");
    assert!(fifo.success());

    let daemon = judging(folder.path()).start();
    let before = score_of(&daemon);
    let absolute = outside.path().join("c.gguf").display().to_string();
    let bad = [
        "nan.gguf",
        "inf.gguf",
        "half.gguf",
        "empty.gguf",
        "text.gguf",
        "vocabulary.gguf",
        "gain.gguf",
        "headless.gguf",
        "policy.gguf",
        "folder.gguf",
        "out.gguf",
        "fifo.gguf",
        "none.gguf",
        "../c.gguf",
        &absolute,
        "http://host/b.gguf",
    ];
    for path in bad {
        let error = daemon.post("/v1/rewards/model", &json!({"path": path})).error(400);
        assert_eq!(error["param"], "path", "{path}: {error}");
        assert_eq!(score_of(&daemon), before, "{path}");
    }
    for body in [json!({"path": ""}), json!({"path": 5})] {
        assert_eq!(daemon.post("/v1/rewards/model", &body).error(400)["param"], "path", "{body}");
    }
    let n_bad = bad.len() as f64;
    assert_eq!(daemon.metric("honed_reward_model_loads_total{outcome=\"refused\"}"), n_bad);
    swap(&daemon, "b.gguf");
    assert_ne!(score_of(&daemon).1, before.1);
}

#[test]
fn without_a_folder_only_the_configured_file_is_read() {
    let folder = folder_of(&[("a.gguf", 1, 0.0), ("b.gguf", 1, 1.0)]);
    let daemon = TestDaemon::builder().set(format!("reward.model={}", folder.path().join("a.gguf").display())).start();
    let error = daemon.post("/v1/rewards/model", &json!({"path": "b.gguf"})).error(403);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("reward.folder")), "{error}");
    let (_, old) = score_of(&daemon);
    std::fs::rename(folder.path().join("b.gguf"), folder.path().join("a.gguf")).expect("replaced");
    assert_eq!(daemon.post("/v1/rewards/model", &json!({})).ok()["replaced"], *old);
    std::fs::write(folder.path().join("a.gguf"), b"broken").expect("replaced");
    let error = daemon.post("/v1/rewards/model", &json!({})).error(409);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("reward.model")), "{error}");
    assert_ne!(score_of(&daemon).1, old);

    let nobody = TestDaemon::start();
    nobody.get("/v1/rewards/model").error(404);
    nobody.post("/v1/rewards/model", &json!({})).error(404);
}

/// Goal: one answer is one model's, whatever happens meanwhile. Method: two models whose scores are far apart are swapped to and
/// fro under long requests; every score of every answer must be that of the judge that the answer names.
#[test]
fn requests_in_flight_are_judged_by_the_model_that_they_began_with() {
    let folder = folder_of(&[("a.gguf", 1, 0.0), ("b.gguf", 1, 1000.0)]);
    let daemon = judging(folder.path()).set("reward.batch=4").start();
    let (_, small) = score_of(&daemon);
    let address = daemon.address();
    let (is_over, n_answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = || {
        let texts: Vec<String> = (0..12).map(|n| "the ocean is vast ".repeat(n % 3 + 1)).collect();
        let body = json!({"text_1": "the sky", "text_2": texts}).to_string();
        let request = client::request("POST", "/score", &[("content-type", "application/json")], body.as_bytes());
        let mut judges = [0, 0];
        while !is_over.load(Ordering::Acquire) {
            let reply = client::raw(address, &request);
            let is_small = reply.header("x-honed-reward-version") == Some(small.as_str());
            let answer = reply.ok();
            for entry in answer["data"].as_array().expect("scores") {
                let score = entry["score"].as_f64().expect("a score");
                assert_eq!(score < 500.0, is_small, "{score} by {:?}", reply.header("x-honed-reward-version"));
            }
            judges[usize::from(is_small)] += 1;
            n_answers.fetch_add(1, Ordering::AcqRel);
        }
        judges
    };
    let judges = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        for turn in 0..6 {
            swap(&daemon, if turn % 2 == 0 { "b.gguf" } else { "a.gguf" });
            // More answers than there are clients: one of them was asked for after the swap.
            let seen = n_answers.load(Ordering::Acquire);
            daemon.wait_for("the clients go on", |_| n_answers.load(Ordering::Acquire) > seen + 4);
        }
        is_over.store(true, Ordering::Release);
        clients
            .into_iter()
            .map(|client| client.join().expect("no panic"))
            .fold([0, 0], |a, b| [a[0] + b[0], a[1] + b[1]])
    });
    assert!(judges.iter().all(|n| *n > 0), "both judged: {judges:?}");
    assert_eq!(daemon.metric("honed_score_failures_total"), 0.0);
}

/// Goal: what waits for the learner is judged by one model, the one that sits; nothing is lost. Method: rollouts that the first
/// model judged while the learner is paused, a swap, and the log's word for who judged.
#[test]
fn rollouts_that_wait_are_judged_again() {
    let folder = folder_of(&[("a.gguf", 1, 0.0), ("b.gguf", 1, 3.0)]);
    let daemon = judging(folder.path()).set("ppo.enabled=true").start();
    daemon.post("/v1/training/pause", &json!({})).ok();
    for _ in 0..3 {
        daemon.post("/v1/completions", &json!({"prompt": "the", "max_tokens": 4, "n": 2})).ok();
    }
    let judged_by = |daemon: &TestDaemon, version: &str| {
        let page = daemon.get("/v1/rollouts?state=scored").ok();
        page["data"].as_array().expect("rows").iter().filter(|row| row["reward_version"] == *version).count()
    };
    let (_, old) = score_of(&daemon);
    daemon.wait_for("the first model judges all", |d| judged_by(d, &old) == 6);
    let change = swap(&daemon, "b.gguf");
    assert_eq!(change["rejudged"], 6, "{change}");
    let new = change["version"].as_str().expect("a version").to_owned();
    daemon.wait_for("the second model judges all again", |d| judged_by(d, &new) == 6);
    assert_eq!((judged_by(&daemon, &old), daemon.metric("honed_rollouts_rejudged_total")), (0, 6.0));
}

/// Goal: SIGHUP reads the configured file again, and a bad one changes nothing. Method: the process, the file replaced in place.
#[test]
fn a_hangup_reads_the_reward_model_again() {
    let folder = folder_of(&[("a.gguf", 1, 0.0), ("b.gguf", 1, 3.0)]);
    let data = tempfile::tempdir().expect("a folder");
    let configured = folder.path().join("a.gguf");
    let reward = format!("reward.model={}", configured.display());
    let daemon = Process::serve(data.path(), &["ppo.enabled=false", &reward]);
    let get = |path: &str| client::raw(daemon.address, &client::request("GET", path, &[], b""));
    let version = || get("/v1/rewards/model").ok()["version"].as_str().expect("a version").to_owned();
    let waits_for = |what: &str, holds: &dyn Fn() -> bool| {
        let began = std::time::Instant::now();
        while !holds() {
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "waited in vain: {what}");
            std::thread::yield_now();
        }
    };
    let old = version();
    std::fs::rename(folder.path().join("b.gguf"), &configured).expect("replaced");
    daemon.signal(libc::SIGHUP);
    waits_for("the new model", &|| version() != old);
    let new = version();
    std::fs::write(&configured, b"broken").expect("replaced");
    daemon.signal(libc::SIGHUP);
    waits_for("the refusal", &|| {
        get("/metrics").text().contains("honed_reward_model_loads_total{outcome=\"refused\"} 1")
    });
    assert_eq!(version(), new);
}
