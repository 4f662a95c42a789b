//! A learner whose weights are no numbers, in the real daemon: what users get of it, and what the reports say.

use std::process::Command;

use serde_json::{Value, json};

use crate::{
    harness::{
        client::{self, request},
        process::{self, Process},
    },
    learner_resume::{SETS, stock},
};

fn get(daemon: &Process, path: &str) -> Value {
    client::raw(daemon.address, &request("GET", path, &[], b"")).ok()
}

fn says(daemon: &Process) -> Value {
    let body =
        json!({"prompt": "the ocean", "max_tokens": 12, "seed": 7, "store": false, "ignore_eos": true}).to_string();
    let headers = [("content-type", "application/json")];
    let answer = client::raw(daemon.address, &request("POST", "/v1/completions", &headers, body.as_bytes())).ok();
    json!([answer["system_fingerprint"], answer["choices"][0]["text"]])
}

/// Goal: weights that are not finite reach nobody, with and without a gate, and the next update is a good one. Method: a failpoint
/// spoils the first two updates of a log that holds four; what is said with one seed, the rows, and `honed why`.
#[test]
fn weights_that_are_no_numbers_are_refused_with_a_reason_whatever_the_gate() {
    for gate in ["strict", "off"] {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        stock(&data);
        let gate = format!("ppo.gate={gate}");
        // So that what is said depends on nothing but the weights.
        let alone = "policy.deterministic=true";
        let sets: Vec<&str> = SETS.iter().copied().chain([gate.as_str(), alone]).collect();
        let calm = Process::serve(&data, &["ppo.enabled=false", alone]);
        client::until_ready(calm.address);
        let before = says(&calm);
        drop(calm);
        let failpoints = "update.weights=error@1; update.weights=error@2; ended=delay:3000@2";
        let daemon = Process::try_serve(&data, &sets, failpoints).unwrap_or_else(|status| panic!("{status}"));
        let began = std::time::Instant::now();
        let rejected = || {
            let rows = get(&daemon, "/v1/policies")["data"].as_array().expect("rows").clone();
            rows.into_iter().filter(|row| row["state"] == "rejected").collect::<Vec<_>>()
        };
        while rejected().len() < 2 {
            assert!(began.elapsed() < std::time::Duration::from_secs(60), "{gate}: two updates were spoilt");
            assert_eq!(says(&daemon), before, "{gate}: what users get has not changed");
        }
        assert_eq!(says(&daemon), before, "{gate}");
        for row in rejected() {
            let reason = row["reason"].as_str().expect("a reason");
            assert!(reason.contains("1 tensors hold weights that are not finite"), "{gate}: {reason}");
            assert_eq!(row["numbers"]["gate/pass"], 0.0);
        }
        let why =
            Command::new(process::binary()).args(["why", "1", "--data-dir"]).arg(&data).output().expect("it runs");
        let why = String::from_utf8(why.stdout).expect("UTF-8");
        assert!(why.contains("was refused: 1 tensors hold weights that are not finite"), "{why}");
        while get(&daemon, "/v1/policies")["live"] == 0 {
            assert!(began.elapsed() < std::time::Duration::from_secs(120), "{gate}: the third update is healthy");
            std::thread::yield_now();
        }
    }
}
