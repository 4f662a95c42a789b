//! The life of requests, versions and the process: back-pressure, clients that leave, feedback, rollback, swaps, signals.

use std::{
    io::Write,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use ppo::rollout_log::LogReader;
use serde_json::{Value, json};

use crate::harness::{
    TestDaemon,
    client::{self, Stream},
    process::{self, Process},
    versions::publish_versions,
};

fn long(stream: bool) -> Value {
    json!({"prompt": "the ocean", "max_tokens": 200, "ignore_eos": true, "stream": stream})
}

fn running(daemon: &TestDaemon) -> f64 {
    daemon.metric("honed_num_requests_running") + daemon.metric("honed_num_requests_waiting")
}

/// Goal: a full queue says so at once, and when to come back. Method: one slot, one waiting place, and long streams, another one
/// before every try.
#[test]
fn a_full_queue_is_a_429_with_retry_after() {
    let daemon = TestDaemon::builder().set("policy.parallel=1").set("policy.max_queue=1").start();
    let body = json!({"prompt": "a", "max_tokens": 250, "n": 60, "ignore_eos": true, "stream": true});
    let mut streams = Vec::new();
    let mut refused = None;
    for _ in 0..50 {
        streams.push(Stream::open(daemon.address(), "/v1/completions", &body));
        daemon.wait_for("a request is inside", |d| running(d) >= 1.0);
        let reply =
            daemon.post("/v1/completions", &json!({"prompt": ["a", "b", "c"], "max_tokens": 200, "ignore_eos": true}));
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let reply = refused.expect("three prompts never fit one waiting place");
    assert_eq!(reply.error(429)["code"], "queue_full");
    assert!(reply.header("retry-after").is_some());
    drop(streams);
    daemon.wait_for("all slots are free again", |d| running(d) == 0.0);
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
}

/// Goal: few requests for many tokens fill the queue too. Method: one slot, taken, and a request that waits for another two hundred
/// tokens where one may.
#[test]
fn a_queue_full_of_tokens_is_a_429() {
    let daemon = TestDaemon::builder().set("policy.parallel=1").set("policy.max_queue_tokens=1").start();
    let body = json!({"prompt": "a", "max_tokens": 250, "n": 100, "ignore_eos": true, "stream": true});
    let stream = Stream::open(daemon.address(), "/v1/completions", &body);
    daemon.wait_for("its other choices wait", |d| d.metric("honed_num_requests_waiting") == 1.0);
    daemon.wait_for("one is drawn", |d| d.metric("honed_num_requests_running") == 1.0);
    let reply = daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1}));
    assert_eq!((&reply.error(429)["code"], reply.header("retry-after")), (&json!("queue_full"), Some("1")));
    drop(stream);
    daemon.wait_for("all slots are free again", |d| running(d) == 0.0);
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
}

/// Goal: whoever leaves frees the slot. Method: leave mid-stream, while waiting for a whole answer, and while queued.
#[test]
fn clients_that_leave_free_their_slots() {
    let daemon = TestDaemon::builder().set("policy.parallel=1").start();
    let body = json!({"prompt": "the", "max_tokens": 250, "n": 60, "ignore_eos": true, "stream": true});
    let mut stream = daemon.stream("/v1/completions", &body);
    stream.next_data().expect("it streams");
    let mut whole = client::connect(daemon.address());
    let mut waiting = long(false);
    waiting["n"] = 60.into();
    let request = client::request(
        "POST",
        "/v1/completions",
        &[("content-type", "application/json")],
        waiting.to_string().as_bytes(),
    );
    whole.write_all(&request).expect("sent");
    // The first one waits too, with its other choices.
    daemon.wait_for("the second request queues", |d| d.metric("honed_num_requests_waiting") >= 2.0);
    let left = Instant::now();
    drop(whole);
    drop(stream);
    daemon.wait_for("all slots are free", |d| running(d) == 0.0);
    assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());
    daemon.wait_for("both are counted", |d| d.metric("honed_disconnects_total") == 2.0);
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
}

#[test]
fn feedback_finds_its_exchange_and_repeats_change_nothing() {
    let daemon = TestDaemon::start();
    let answer = daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 4, "n": 2})).ok();
    let id = answer["id"].as_str().expect("an id");
    let body = json!({"id": id, "index": 1, "label": "up", "user": "ann"});
    let first = daemon.post("/v1/feedback", &body).ok();
    assert_eq!(daemon.post("/v1/feedback", &body).ok(), first);
    daemon.post("/v1/feedback", &json!({"id": id, "index": 2, "label": "up"})).error(404);
    daemon.post("/v1/feedback", &json!({"id": "cmpl-nobody", "score": 1})).error(404);
    let page = daemon.get("/v1/rollouts").ok();
    let row = page["data"].as_array().expect("rows").iter().find(|row| row["index"] == 1).expect("the row").clone();
    assert_eq!(row["feedback"][0]["user"], "ann");
    assert_eq!(row["feedback"].as_array().map(Vec::len), Some(1));
}

#[test]
fn what_must_not_be_stored_is_not() {
    let daemon = TestDaemon::start();
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2, "store": false})).ok();
    let kept = daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2, "user": "u"})).ok();
    daemon.wait_for("the log commits", |d| !d.get("/v1/rollouts").ok()["data"].as_array().expect("rows").is_empty());
    let page = daemon.get("/v1/rollouts?limit=10").ok();
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1));
    assert_eq!((&page["data"][0]["id"], &page["data"][0]["user"]), (&kept["id"], &json!("u")));
    assert_eq!(daemon.get("/v1/rollouts?state=odd").error(400)["param"], "state");
}

/// Goal: what a learner counts of activations is counted without one. Method: two versions; one activation is refused, one changes
/// nothing, one loads, and one goes back to what is in memory.
#[test]
fn activations_without_a_learner_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    publish_versions(folder.path(), 2);
    let daemon = TestDaemon::builder().start_in(folder.path());
    let activate = |n: u64, body: Value| daemon.post(&format!("/v1/policies/{n}/activate"), &body);
    activate(1, json!({"expected_live": 0})).error(409);
    activate(2, json!({})).ok();
    activate(1, json!({})).ok();
    activate(0, json!({})).ok();
    let counts = [
        "honed_version_activations_total",
        "honed_version_load_seconds_count",
        "honed_version_promotion_seconds_count",
    ];
    // The refused one was brought into memory, where the next one found it.
    assert_eq!(counts.map(|name| daemon.metric(name)), [2.0, 1.0, 2.0]);
}

/// Goal: rollback works, and only for whoever knows what is live. Method: three versions, compare-and-set right and wrong.
#[test]
fn versions_are_activated_by_compare_and_set() {
    let folder = tempfile::tempdir().expect("a folder");
    publish_versions(folder.path(), 2);
    let daemon = TestDaemon::builder().start_in(folder.path());
    let fingerprint =
        || daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok()["system_fingerprint"].clone();
    assert_eq!(fingerprint(), "policy@2", "the last promoted version serves again");
    let activate = |version: u64, body: &Value| daemon.post(&format!("/v1/policies/{version}/activate"), body);
    activate(1, &json!({"expected_live": 1})).error(409);
    assert_eq!(fingerprint(), "policy@2");
    assert_eq!(activate(1, &json!({"expected_live": 2})).ok()["state"], "live");
    assert_eq!(fingerprint(), "policy@1");
    assert_eq!(daemon.get("/v1/policies").ok()["live"], 1);
    activate(9, &json!({})).error(404);
    activate(0, &json!({"expected_live": "x"})).error(400);
    activate(0, &json!({})).ok();
    assert_eq!(fingerprint(), "policy@0");
}

/// Goal: no request fails and no response mixes versions while versions change. Method: streams in four threads, swaps in
/// this one, each after a stream of the version before has ended; every answer says the same version in each chunk and in the
/// header, and greedy text is that version's text.
#[test]
fn swaps_under_traffic_fail_nothing_and_mix_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    publish_versions(folder.path(), 1);
    let daemon = TestDaemon::builder().start_in(folder.path());
    let ask = |model: &str| json!({"model": model, "prompt": "the ocean", "max_tokens": 40, "temperature": 0, "frequency_penalty": 2, "ignore_eos": true, "stream": true});
    let text = |events: &[Value]| events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect::<String>();
    let activate = |version: u64| daemon.post(&format!("/v1/policies/{version}/activate"), &json!({})).ok();
    let truth = ["policy@0", "policy@1"].map(|model| text(&daemon.stream("/v1/completions", &ask(model)).events()));
    assert_ne!(truth[0], truth[1], "the versions differ, or this test shows nothing");
    let over = AtomicBool::new(false);
    let n_ended = [0, 0].map(AtomicU64::new);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let stream = daemon.stream("/v1/completions", &ask("policy"));
                        let version = stream.version().to_owned();
                        let events = stream.events();
                        assert!(
                            events.iter().all(|e| e["system_fingerprint"] == format!("policy@{version}")),
                            "mixed versions"
                        );
                        let version: usize = version.parse().expect("a number");
                        assert_eq!(text(&events), truth[version], "text of another version");
                        n_ended[version].fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for version in [0, 1].into_iter().cycle().take(12) {
            let n_ended = &n_ended[version as usize];
            let before = n_ended.load(Ordering::Relaxed);
            activate(version);
            let answered =
                || n_ended.load(Ordering::Relaxed) > before || clients.iter().any(|client| client.is_finished());
            daemon.wait_for("an answer of the version", |_| answered());
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("no request fails"));
    });
}

#[test]
fn sigterm_drains_what_runs_and_exits_with_success() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut daemon = Process::serve(folder.path(), &["ppo.enabled=false"]);
    let mut stream = Stream::open(daemon.address, "/v1/completions", &long(true));
    stream.next_data().expect("it streams");
    daemon.signal(libc::SIGTERM);
    // `timeout` and some supervisors signal twice at once; only a later one means impatience.
    daemon.signal(libc::SIGINT);
    let events = stream.events();
    assert_eq!(events.last().expect("events")["choices"][0]["finish_reason"], "length", "it was not cut");
    assert!(daemon.wait().success());
    let rows = LogReader::open(folder.path()).expect("a log").stats().expect("counts");
    assert_eq!(rows.n_rollouts, 1, "the exchange was flushed");
}

/// Goal: acknowledged feedback survives a death without warning, and nothing is there twice. Method: kill -9 right after
/// the answer, reopen, look.
#[test]
fn kill_minus_nine_loses_no_answered_feedback() {
    let folder = tempfile::tempdir().expect("a folder");
    let post = |daemon: &Process, path: &str, body: &Value| {
        let json = [("content-type", "application/json")];
        client::raw(daemon.address, &client::request("POST", path, &json, body.to_string().as_bytes())).ok()
    };
    let mut ids = Vec::new();
    for round in 0..2 {
        let mut daemon = Process::serve(folder.path(), &["ppo.enabled=false"]);
        for _ in 0..3 {
            let answer = post(&daemon, "/v1/completions", &json!({"prompt": "a", "max_tokens": 3}));
            let id = answer["id"].as_str().expect("an id").to_owned();
            post(&daemon, "/v1/feedback", &json!({"id": id, "score": round}));
            ids.push(id);
        }
        daemon.signal(libc::SIGKILL);
        daemon.wait();
    }
    let log = LogReader::open(folder.path()).expect("a log");
    let page = log.page(&ppo::rollout_log::PageQuery { limit: 100, ..Default::default() }).expect("rows");
    let logged: Vec<_> = page.iter().map(|row| row.rollout.id.request.clone()).collect();
    assert_eq!(logged, ids);
    assert!(page.iter().all(|row| row.feedback.len() == 1));
}

#[test]
fn probes_and_metrics_answer_while_the_engine_is_busy() {
    let daemon = TestDaemon::builder().set("policy.parallel=2").start();
    let mut body = long(true);
    body["n"] = 20.into();
    let mut stream = daemon.stream("/v1/completions", &body);
    stream.next_data().expect("it streams");
    for path in ["/livez", "/readyz", "/health", "/version", "/metrics", "/"] {
        let asked = Instant::now();
        assert_eq!(daemon.get(path).status, 200, "{path}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{path} took {:?}", asked.elapsed());
    }
    drop(stream);
    assert!(daemon.get("/metrics").text().contains("honed_time_to_first_token_seconds_bucket"));
    daemon.stop();
}

#[test]
fn commands_to_the_learner_answer_with_what_they_changed() {
    let sets = ["ppo.enabled=true", "reward.source=feedback", "reward.feedback_fallback=drop"];
    let daemon = sets.into_iter().fold(TestDaemon::builder(), |builder, set| builder.set(set)).start();
    daemon.post("/v1/training/step", &json!({})).error(409);
    assert_eq!(daemon.post("/v1/training/pause", &json!({})).ok()["paused"], true);
    daemon.post("/v1/training/step", &json!({})).ok();
    assert_eq!(daemon.post("/v1/training/resume", &json!({})).ok()["paused"], false);
}

/// Goal: a path that would wait for a writer for ever is refused at once. Method: the real binary on a FIFO.
#[test]
fn a_fifo_is_no_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo.gguf");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let mut serve = Command::new(process::binary());
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("data"));
    let output = serve.arg("--model").arg(&fifo).output().expect("it ends by itself");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("policy.model") && said.contains("regular file"), "{said}");
}

#[test]
fn a_model_without_a_judge_is_served_and_learning_is_refused_only_when_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = TestDaemon::builder().set("ppo.enabled=true").try_start(folder.path());
    let error = asked.err().expect("nobody could judge").to_string();
    assert!(error.contains("--reward-url"), "{error}");
    let daemon = TestDaemon::start();
    assert_eq!(daemon.get("/v1/training").ok()["state"], "disabled");
    daemon.post("/v1/training/pause", &json!({})).error(409);
    daemon.post("/v1/rewards", &json!({"input": [{"prompt": "a", "completion": "b"}]})).error(404);
}
