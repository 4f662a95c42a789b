//! A reward that the code has never heard of is learnt from traffic, and unlearnt when its sign turns.
//!
//! Method: a reward server in OpenRLHF's shape pays for the letter `e`. Clients send prompts over HTTP; the share of the
//! letter is measured on fixed prompts and seeds before and after, with exchanges that are kept out of the log.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::TestDaemon;

/// Publications of each half of the test.
const VERSIONS: u64 = 20;

/// Pays `sign · 10 · share of e` for each response, until the process ends.
pub(crate) fn reward_server(sign: Arc<AtomicI64>) -> SocketAddr {
    serve(move |responses| {
        let sign = sign.load(Ordering::SeqCst) as f64;
        let rewards: Vec<f64> = responses.iter().map(|(_, response)| sign * 10.0 * share_of_e(response)).collect();
        Ok(rewards)
    })
}

/// A reward server until the process ends: what it says of prompts and responses, or the status that it refuses them with.
pub(crate) fn serve(
    judge: impl Fn(&[(String, String)]) -> Result<Vec<f64>, &'static str> + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &judge);
        }
    });
    address
}

fn answer(stream: TcpStream, judge: &impl Fn(&[(String, String)]) -> Result<Vec<f64>, &'static str>) {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let texts = |key: &str| -> Vec<String> {
        let list = body[key].as_array().unwrap();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let pair = |(query, prompt): (String, String)| (prompt.clone(), query[prompt.len()..].to_owned());
    let pairs: Vec<(String, String)> = texts("query").into_iter().zip(texts("prompts")).map(pair).collect();
    let (status, text) = match judge(&pairs) {
        Ok(rewards) => ("200 OK", json!({ "rewards": rewards }).to_string()),
        Err(status) => (status, json!({ "detail": status }).to_string()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
}

fn share_of_e(text: &str) -> f64 {
    text.chars().filter(|c| *c == 'e').count() as f64 / text.chars().count().max(1) as f64
}

fn completion(prompt: &str, seed: u64, store: bool) -> Value {
    json!({ "prompt": prompt, "max_tokens": 12, "temperature": 1.0, "seed": seed, "store": store })
}

/// Mean share over fixed prompts and seeds, of the live version.
fn measured(daemon: &TestDaemon) -> f64 {
    let share = |seed: u64| {
        let reply = daemon.post("/v1/completions", &completion("the ocean", seed, false)).ok();
        share_of_e(reply["choices"][0]["text"].as_str().unwrap())
    };
    (0..96).map(share).sum::<f64>() / 96.0
}

fn live(daemon: &TestDaemon) -> u64 {
    daemon.get("/v1/policies").ok()["live"].as_u64().unwrap()
}

/// Sends traffic until the live version is at least `version`.
fn drive(daemon: &TestDaemon, version: u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..4_u64 {
            let done = &done;
            scope.spawn(move || {
                let mut n = 0;
                while !done.load(Ordering::SeqCst) {
                    n += 1;
                    let prompt = ["the ocean", "a bear", "what color"][n as usize % 3];
                    daemon.post("/v1/completions", &completion(prompt, client << 32 | n | version << 48, true)).ok();
                }
            });
        }
        let start = Instant::now();
        while live(daemon) < version && start.elapsed() < Duration::from_secs(240) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(live(daemon) >= version, "{}", daemon.get("/v1/training").text());
}

#[test]
fn a_planted_reward_rises_and_falls_with_its_sign() {
    let sign = Arc::new(AtomicI64::new(1));
    let url = format!("http://{}/get_reward", reward_server(sign.clone()));
    let daemon = TestDaemon::builder()
        .set("ppo.enabled=true")
        .set("reward.source=remote")
        .set(format!("reward.remote_url={url}"))
        .set("ppo.rollouts_per_update=64")
        .set("ppo.minibatch=32")
        .set("ppo.epochs=2")
        .set("ppo.policy_learning_rate=3e-3")
        .set("ppo.value_learning_rate=3e-3")
        .set("ppo.warmup_updates=0")
        .set("ppo.kl_coef=0.0")
        .set("ppo.max_staleness=4")
        .set("ppo.stop_kl=1.0")
        .set("ppo.skip_kl=2.0")
        .set("ppo.ess_min=0.0")
        // A judge that turns its mind looks to the watch like a version that does harm.
        .set("ppo.watch_rollouts=0")
        .start();
    let first = measured(&daemon);
    drive(&daemon, VERSIONS);
    let risen = measured(&daemon);
    assert!(risen > first + 0.02, "share of e: {first:.3}, after {VERSIONS} versions {risen:.3}");
    sign.store(-1, Ordering::SeqCst);
    // The way back is longer the further it went, which differs from run to run: traffic decides what each update sees.
    let mut fallen = risen;
    for halves in 4..=8 {
        drive(&daemon, halves * VERSIONS / 2);
        fallen = measured(&daemon);
        if fallen < risen - 0.02 {
            break;
        }
    }
    assert!(fallen < risen - 0.02, "share of e: {risen:.3}, with the sign turned {fallen:.3}");
    daemon.stop();
}
