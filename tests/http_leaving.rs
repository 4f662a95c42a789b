//! Clients that leave before their answer is complete: what they held is freed, nothing that they did not read trains, and
//! the metrics know of the work that was done for them.

use std::{io::Write, net::TcpStream};

use serde_json::{Value, json};

use crate::harness::{TestDaemon, client};

/// Far more than is drawn while a test looks: `n_prompts` · 128 choices of 250 tokens, one after the other.
fn endless(n_prompts: usize, stream: bool) -> Value {
    json!({"prompt": vec!["a"; n_prompts], "max_tokens": 250, "n": 128, "ignore_eos": true, "stream": stream})
}

fn one_slot() -> TestDaemon {
    TestDaemon::builder().set("policy.parallel=1").start()
}

fn send(daemon: &TestDaemon, body: &Value, behind: &[u8]) -> TcpStream {
    let json = [("content-type", "application/json")];
    let request = client::request("POST", "/v1/completions", &json, body.to_string().as_bytes());
    let mut socket = client::connect(daemon.address());
    socket.write_all(&[&request[..], behind].concat()).expect("sent");
    socket
}

fn is_idle(daemon: &TestDaemon) -> bool {
    daemon.metric("honed_num_requests_running") + daemon.metric("honed_num_requests_waiting") == 0.0
}

fn ended(daemon: &TestDaemon, reason: &str) -> f64 {
    daemon.metric(&format!("honed_request_success_total{{finished_reason=\"{reason}\"}}"))
}

fn rows(daemon: &TestDaemon) -> Vec<Value> {
    daemon.get("/v1/rollouts?limit=1000").ok()["data"].as_array().expect("rows").clone()
}

/// Goal: a choice of a whole answer that was never sent is no exchange. Method: leave while later choices are drawn; the first
/// ones ended by themselves, and their rows must not say so.
#[test]
fn choices_of_an_answer_that_was_never_made_are_cancelled() {
    let daemon = one_slot();
    let socket = send(&daemon, &endless(1, false), b"");
    daemon.wait_for("a choice ends", |d| ended(d, "length") >= 1.0);
    drop(socket);
    daemon.wait_for("the slot is free", is_idle);
    assert!(ended(&daemon, "abort") > 0.0, "it was left in time");
    daemon.wait_for("the log commits", |d| rows(d).len() as f64 >= ended(d, "length"));
    for row in rows(&daemon) {
        assert_eq!(row["finish"], "cancelled", "{row}");
    }
}

/// Goal: work for clients that left is counted like any other, and what was never begun fills no log. Method: leave a stream
/// after its first token; every choice is counted as ended, the first one's times are there, and a choice without a token has
/// no row.
#[test]
fn work_for_clients_that_left_is_counted_and_no_empty_row_is_logged() {
    let daemon = one_slot();
    let mut stream = daemon.stream("/v1/completions", &endless(16, true));
    stream.next_data().expect("it streams");
    drop(stream);
    daemon.wait_for("the slot is free", is_idle);
    let (aborted, complete) = (ended(&daemon, "abort"), ended(&daemon, "length"));
    assert_eq!(aborted + complete, 16.0 * 128.0);
    assert!(aborted > complete, "{aborted} {complete}");
    for name in [
        "honed_prompt_tokens_total",
        "honed_prefix_cache_queries_total",
        "honed_generation_tokens_total",
        "honed_time_to_first_token_seconds_count",
        "honed_request_queue_time_seconds_count",
        "honed_request_prefill_time_seconds_count",
    ] {
        assert!(daemon.metric(name) >= 1.0, "{name}");
    }
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1, "user": "last"})).ok();
    daemon.wait_for("the log commits", |d| rows(d).iter().any(|row| row["user"] == "last"));
    let rows = rows(&daemon);
    assert!(rows.iter().all(|row| row["token_ids"].as_array().is_some_and(|ids| !ids.is_empty())));
    assert!(rows.len() as f64 <= complete + 3.0, "{} rows of {complete} complete choices", rows.len());
}

/// Goal: whatever a client has sent behind its request, its leaving frees the slot. Method: a line break, a whole request and
/// more than fits any buffer of ours; hyper looks for the end of a connection only as long as nothing is unread.
#[test]
fn clients_are_seen_to_leave_whatever_they_sent_last() {
    let next = client::request("GET", "/livez", &[], b"");
    for behind in [b"\r\n".to_vec(), next, vec![b'x'; 100_000]] {
        let daemon = one_slot();
        let socket = send(&daemon, &endless(16, false), &behind);
        daemon.wait_for("it runs", |d| d.metric("honed_generation_tokens_total") >= 1.0);
        drop(socket);
        daemon.wait_for("the slot is free", is_idle);
        assert!(ended(&daemon, "abort") > ended(&daemon, "length"), "it ran to its end");
        assert_eq!(daemon.metric("honed_disconnects_total"), 1.0);
    }
}
