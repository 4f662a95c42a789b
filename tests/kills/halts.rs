//! A watch that rolls back, and a death before anybody is told.

use std::time::{Duration, Instant};

use policy::PolicyVersion;
use ppo::rollout_log::{LogReader, RolloutState};
use serde_json::json;

use super::{SETS, clients::post};
use crate::harness::{
    client::{raw, request, until_ready},
    process::Process,
    versions::publish_versions,
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Judged answers of a version: enough to be compared, fewer than an update takes.
const N_ANSWERS: usize = 40;

pub(super) fn check_that_they_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let more = ["ppo.rollouts_per_update=1000", "ppo.minibatch=100", "ppo.watch_rollouts=32"];
    let sets: Vec<&str> = SETS.into_iter().chain(more).collect();
    let reader = || LogReader::open(folder.path()).expect("a log");
    let live = || reader().live_version().expect("readable").expect("one is live").version;
    let mut daemon = Process::try_serve(folder.path(), &sets, "").expect("it serves");
    ask_and_judge(&daemon, 1.0);
    // What is answered is committed; what is judged comes a moment later.
    eventually("the scores", || {
        let counts = reader().stats().expect("readable").by_state;
        counts.get(&RolloutState::Scored).is_some_and(|n| *n as usize >= N_ANSWERS)
    });
    daemon.signal(libc::SIGTERM);
    daemon.wait();
    publish_versions(folder.path(), 1);
    assert_eq!(live(), PolicyVersion(1));

    let mut daemon = Process::try_serve(folder.path(), &sets, "rolled_back=kill").expect("it serves");
    ask_and_judge(&daemon, -1.0);
    eventually("the death", || daemon.has_ended());
    assert_eq!(live(), PolicyVersion::SFT, "it died after the rollback");

    let daemon = Process::try_serve(folder.path(), &sets, "").expect("it serves");
    until_ready(daemon.address);
    let training = || raw(daemon.address, &request("GET", "/v1/training", &[], b"")).ok();
    eventually("the halt", || training()["state"] == "halted");
    let training = training();
    let why = training["reason"].as_str().expect("a reason");
    assert!(training["paused"] == true && why.contains("policy@1 was rolled back to policy@0"), "{training}");
}

/// Answers that differ a little in what people think of them. The last may never be judged: the daemon dies when it has seen enough.
fn ask_and_judge(daemon: &Process, score: f64) {
    until_ready(daemon.address);
    for n in 0..N_ANSWERS {
        let body = json!({"prompt": "a bear meets", "max_tokens": 6, "ignore_eos": true, "user": format!("user-{n}")});
        let Some(answer) = post(daemon.address, "/v1/completions", &body) else { return };
        let words = json!({"id": answer["id"], "user": format!("user-{n}"), "score": score + (n % 4) as f64 / 16.0});
        post(daemon.address, "/v1/feedback", &words);
    }
}

pub(super) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
