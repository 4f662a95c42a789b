//! What a stop waits for and what it leaves behind, and what waits to be judged: behind a judge that takes its time.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use ppo::rollout_log::LogReader;
use serde_json::{Value, json};

use crate::harness::{
    client::{self, request},
    judge::slow_judge,
    model::{self, WINDOW},
    process::Process,
};

const JSON: (&str, &str) = ("content-type", "application/json");

fn post(path: &str, body: &Value) -> Vec<u8> {
    request("POST", path, &[JSON], body.to_string().as_bytes())
}

/// Goal: a shutdown cuts no request that was admitted, whoever answers it. Method: a judge that is asked three times in a row, the
/// last time after the few seconds that everything gets at its end, and nothing for the engine to do.
#[test]
fn sigterm_waits_for_scores_that_were_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, questions) = slow_judge(Duration::from_secs(3));
    let sets = ["ppo.enabled=false", "reward.source=remote", &url, "reward.batch=1", "daemon.drain_s=30"];
    let mut daemon = Process::serve(folder.path(), &sets);
    let address = daemon.address;
    client::until_ready(address);
    let silent = client::connect(address);
    let body = json!({"input": vec![json!({"prompt": "a", "completion": "b"}); 3]});
    let asking = std::thread::spawn(move || client::raw(address, &post("/v1/rewards", &body)));
    questions.recv_timeout(Duration::from_secs(30)).expect("the judge is asked");
    daemon.signal(libc::SIGTERM);
    let stopped = Instant::now();
    turn_away(address, silent);
    let answer = asking.join().expect("an answer").ok();
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(3), "{answer}");
    assert!(daemon.wait().success());
    assert!(stopped.elapsed() < Duration::from_secs(20), "nothing else was to be waited for: {:?}", stopped.elapsed());
}

/// Whoever comes while a daemon ends hears so, whoever came before it and had not asked yet, too, and probes are answered. It has
/// been told to stop a moment ago.
fn turn_away(address: SocketAddr, silent: TcpStream) {
    let get = |path: &str| client::raw(address, &request("GET", path, &[], b""));
    while get("/readyz").status == 200 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(client::ask(silent, &request("GET", "/readyz", &[], b"")).status, 503);
    // Long after the engine has nothing to do any more.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((get("/readyz").status, get("/livez").status), (503, 200));
    let refused = client::raw(address, &post("/v1/completions", &json!({"prompt": "a"})));
    assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{}", refused.text());
}

/// A file with other weights in the folder for models, the daemon at it when it is told to stop, and how long it took then.
fn stopped_in_an_import(folder: &Path, watch: &str) -> Duration {
    let (models, data) = (folder.join("models"), folder.join("data"));
    std::fs::create_dir_all(&models).expect("a folder");
    model::write(&models.join("new.gguf"), 5);
    let (folder, watch) = (format!("daemon.import_dir={}", models.display()), format!("daemon.import_watch={watch}"));
    let sets = ["ppo.enabled=false", &folder, &watch, "daemon.import_poll_ms=20", "daemon.drain_s=1"];
    let mut daemon = Process::try_serve(&data, &sets, "import.copied=delay:60000").expect("it serves");
    client::until_ready(daemon.address);
    let mut asking = client::connect(daemon.address);
    if watch.ends_with("off") {
        asking.write_all(&post("/v1/policies", &json!({"path": "new.gguf"}))).expect("sent");
    }
    let began = Instant::now();
    while !data.join("versions").read_dir().expect("a folder").flatten().any(|file| is_a_copy(&file.path())) {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was copied");
        std::thread::yield_now();
    }
    daemon.signal(libc::SIGTERM);
    let stopped = Instant::now();
    assert!(daemon.wait().success());
    stopped.elapsed()
}

/// Whether it is the weights of a version beside version 0.
fn is_a_copy(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gguf") && path.file_stem().is_some_and(|name| name != "policy-0")
}

/// Goal: the daemon ends in time whatever blocks beside it. Method: a model that takes a minute to be looked at, taken in by a request
/// and by the watch of the folder.
#[test]
fn sigterm_leaves_behind_what_blocks() {
    let took = std::thread::scope(|scope| {
        let stopped = |watch: &'static str| {
            scope.spawn(move || {
                let folder = tempfile::tempdir().expect("a folder");
                stopped_in_an_import(folder.path(), watch)
            })
        };
        ["off", "load"].map(stopped).map(|one| one.join().expect("it stopped"))
    });
    assert!(took.iter().all(|took| *took < Duration::from_secs(25)), "{took:?}");
}

/// Goal: what nobody has read by the end is in the log all the same, as nobody's answer, and the end comes when it should: all that
/// has to be waited for has one grace together. Method: streams that are not read, and a judge that does not answer.
#[test]
fn what_nobody_read_is_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, questions) = slow_judge(Duration::from_secs(300));
    let sets = ["ppo.enabled=false", "reward.source=remote", &url, "daemon.drain_s=2"];
    let mut daemon = Process::serve(folder.path(), &sets);
    client::until_ready(daemon.address);
    let send = |path: &str, body: Value| {
        let mut socket = client::connect(daemon.address);
        socket.write_all(&post(path, &body)).expect("sent");
        socket
    };
    let body =
        json!({"prompt": "a", "n": 64, "max_tokens": WINDOW - 8, "ignore_eos": true, "logprobs": 5, "stream": true});
    let unread = send("/v1/completions", body);
    let judged = send("/v1/rewards", json!({"input": [{"prompt": "a", "completion": "b"}]}));
    questions.recv_timeout(Duration::from_secs(30)).expect("the judge is asked");
    while metric(daemon.address, "honed_generation_tokens_total") < (64 * (WINDOW - 8)) as f64 {
        std::thread::sleep(Duration::from_millis(10));
    }
    daemon.signal(libc::SIGTERM);
    let stopped = Instant::now();
    assert!(daemon.wait().success());
    assert!(stopped.elapsed() < Duration::from_secs(20), "drain_s and one grace: {:?}", stopped.elapsed());
    drop((unread, judged));
    let stats = LogReader::open(folder.path()).expect("a log").stats().expect("numbers");
    assert_eq!(stats.n_rollouts, 64, "{stats:?}");
}

fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = client::raw(address, &request("GET", "/metrics", &[], b"")).text();
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a number")
}

/// Goal: what waits to be judged has a prompt in memory once, however many responses there are to it. Method: a judge who does not
/// answer, and forty requests of some thousand responses to a prompt as long as the window: copies of it took 200 MiB.
#[test]
fn a_prompt_that_waits_with_its_responses_is_in_memory_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, questions) = slow_judge(Duration::from_secs(300));
    let sets = ["ppo.enabled=false", "reward.source=remote", &url, "reward.remote_timeout_ms=300000"];
    let daemon = Process::serve(folder.path(), &sets);
    let address = daemon.address;
    client::until_ready(address);
    let query = "\u{1f30a}".repeat(WINDOW / 4 - 2);
    let body = post("/rerank", &json!({"query": query, "documents": vec!["a"; 4000]}));
    let ask = || {
        let mut socket = client::connect(address);
        socket.write_all(&body).expect("sent");
        socket
    };
    let first = ask();
    questions.recv_timeout(Duration::from_secs(60)).expect("the judge is asked");
    let before = daemon.rss_kib();
    let others: Vec<TcpStream> = (0..40).map(|_| ask()).collect();
    let began = Instant::now();
    while metric(address, "honed_score_queue_depth") < others.len() as f64 {
        assert!(began.elapsed() < Duration::from_secs(120), "{} wait", metric(address, "honed_score_queue_depth"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = daemon.rss_kib().saturating_sub(before) / 1024;
    assert!(grown < 110, "{grown} MiB");
    drop((first, others));
}
