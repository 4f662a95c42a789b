//! Requests that take longer than `daemon.request_timeout_s`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{TestDaemon, client::Reply, judge::slow_judge};

/// Three seconds for each request; a judge who takes minutes.
fn hurried() -> TestDaemon {
    let (url, _) = slow_judge(Duration::from_secs(300));
    let sets = ["daemon.request_timeout_s=3", "reward.source=remote", "reward.remote_timeout_ms=300000", &url];
    sets.iter().fold(TestDaemon::builder(), |builder, set| builder.set(*set)).start()
}

/// Far more choices than are drawn in that time.
fn endless(stream: bool) -> Value {
    json!({"prompt": vec!["a"; 16], "n": 128, "max_tokens": 250, "ignore_eos": true, "stream": stream})
}

/// A client that asks again by itself would have it computed in vain once more.
fn refuses_a_retry(reply: &Reply) {
    assert_eq!(reply.error(503)["code"], "timeout");
    assert_eq!((reply.header("retry-after"), reply.header("x-should-retry")), (Some("1"), Some("false")));
}

/// Goal: whatever takes too long ends with the same error, and leaves its place. Method: more choices than fit into the time, whole
/// and as a stream, and scores of a judge who does not answer; then a request that fits.
#[test]
fn what_takes_too_long_ends_and_leaves_its_place() {
    let daemon = hurried();
    refuses_a_retry(&daemon.post("/v1/completions", &endless(false)));
    let events = daemon.post("/v1/completions", &endless(true)).text();
    let last = events.lines().rfind(|line| line.starts_with("data: ")).expect("an event");
    let error: Value = serde_json::from_str(&last["data: ".len()..]).expect("JSON, and no [DONE] after it");
    assert_eq!(error["error"]["code"], "timeout", "{error}");
    refuses_a_retry(&daemon.post("/v1/rewards", &json!({"input": [{"prompt": "a", "completion": "b"}]})));
    daemon.wait_for("the slots are free", |daemon| daemon.metric("honed_num_requests_running") == 0.0);
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
}
