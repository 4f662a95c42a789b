//! Limits of what a client may do to the daemon by being slow, large, many, foreign or curious; and what the log tells.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{
    TestDaemon,
    client::{self, Reply, request},
    process::Process,
};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Goal: a body that drips is given up, with an answer. Method: the head and half a body, then silence.
#[test]
fn slow_bodies_are_cut_off() {
    let daemon = TestDaemon::builder().set("daemon.body_timeout_s=1").start();
    let whole = request("POST", "/v1/completions", &[JSON], br#"{"prompt":"a","max_tokens":1}"#);
    let asked = Instant::now();
    let reply = client::raw(daemon.address(), &whole[..whole.len() - 5]);
    assert_eq!(reply.error(400)["code"], "body_timeout");
    assert!((1..10).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    assert_eq!(client::raw(daemon.address(), &whole).status, 200);
}

/// Goal: a client that never reads does not keep its connection. Method: the only connection asks for more than any socket's buffers hold
/// and reads nothing; the next one is served once the first is cut.
#[test]
fn clients_that_never_read_are_cut_off() {
    let daemon = TestDaemon::builder().set("daemon.write_timeout_s=1").set("daemon.connections_max=1").start();
    let body = json!({"prompt": "🌊".repeat(450_000), "with_pieces": true, "return_token_strs": true}).to_string();
    let mut deaf = client::connect(daemon.address());
    deaf.write_all(&request("POST", "/tokenize", &[JSON], body.as_bytes())).expect("sent");
    assert_eq!(daemon.get("/livez").status, 200, "it waited in the kernel's queue for the only connection");
    let mut rest = Vec::new();
    let ended = deaf.read_to_end(&mut rest);
    let length = String::from_utf8_lossy(&rest[..rest.len().min(500)]).into_owned();
    assert!(ended.is_err() || rest.len() < 20_000_000, "{} bytes came, so it was not cut: {length}", rest.len());
}

#[test]
fn headers_are_bounded_as_configured() {
    let daemon = TestDaemon::builder().set("daemon.header_bytes_max=8192").set("daemon.headers_max=10").start();
    let get = |headers: &[(&str, &str)]| client::raw(daemon.address(), &request("GET", "/livez", headers, b"")).status;
    assert_eq!(get(&[("x-a", &"a".repeat(7000))]), 200);
    assert_eq!(get(&[("x-a", &"a".repeat(9000))]), 431);
    let names: Vec<String> = (0..8).map(|i| format!("x-{i}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(get(&many[..7]), 200, "three of its own and seven");
    assert_eq!(get(&many), 431);
}

/// Goal: the bound is exact, and what it refuses is told and counted like anything else, before a key is asked for.
/// Method: headers that fill it to the byte, one byte more, and more than hyper's buffer has to hold.
#[test]
fn headers_may_fill_their_bound_to_the_byte() {
    let daemon = TestDaemon::builder().keys("daemon.api_keys_file", "user-key\n").start();
    let get = |path: &str, n_bytes: usize| {
        let others = format!("{path}host: 127.0.0.1\r\nconnection: close\r\ncontent-length: 0\r\nx-a: \r\n").len();
        let filler = "a".repeat(n_bytes - others);
        client::raw(daemon.address(), &request("GET", path, &[("x-a", &filler)], b""))
    };
    assert_eq!(get("/livez", 65_536).status, 200);
    assert_eq!(get("/v1/models", 65_536).status, 401);
    let refused = [("/livez", 65_537), ("/livez", 66_000), ("/v1/models", 70_000), ("/nowhere", 66_000)];
    for (path, n_bytes) in refused {
        let reply = get(path, n_bytes);
        let error = reply.error(431);
        assert_eq!((&error["code"], &error["param"]), (&json!("headers_too_large"), &Value::Null), "{path} {n_bytes}");
        assert_eq!(reply.header("connection"), Some("close"), "{path} {n_bytes}");
    }
    assert_eq!(daemon.metric("honed_errors_total{code=\"headers_too_large\"}"), 4.0);
    for n_bytes in [80_000, 100_000, 200_000] {
        assert_eq!(get("/livez", n_bytes).status, 431, "{n_bytes}");
    }
}

/// Goal: who opens a daemon to a network without keys is told. Method: what it says at its start there, there with a key, and here.
#[test]
fn a_daemon_that_answers_everybody_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, keys) = (folder.path().join("log"), folder.path().join("keys"));
    std::fs::write(&keys, "a-key\n").expect("written");
    let keyed = format!("daemon.api_keys_file={}", keys.display());
    let anywhere = "daemon.listen=0.0.0.0:0";
    for (n, sets) in [&[anywhere][..], &[anywhere, &keyed], &[]].into_iter().enumerate() {
        let sets = [&["ppo.enabled=false"], sets].concat();
        drop(Process::serve_logged(&folder.path().join(format!("data{n}")), &sets, &log, "warn"));
        let said = std::fs::read_to_string(&log).expect("a log");
        assert_eq!(said.matches("answers everybody who reaches 0.0.0.0:").count(), usize::from(n == 0), "{said}");
    }
}

/// Goal: idle connections cost nobody an answer. Method: five hundred of them, silent, while requests go on.
#[test]
fn idle_connections_do_not_stop_the_others() {
    let daemon = TestDaemon::builder().set("daemon.header_timeout_s=60").start();
    let idle: Vec<_> = (0..500).map(|_| client::connect(daemon.address())).collect();
    for _ in 0..10 {
        daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2})).ok();
    }
    drop(idle);
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2})).ok();
}

/// What OpenAI's client sends from a browser, with a trace.
const SENT_BY_PAGES: &str = "authorization,content-type,traceparent,x-request-id,x-stainless-lang,x-stainless-os";

fn preflight(daemon: &TestDaemon, origin: &str) -> Reply {
    let asks = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", SENT_BY_PAGES),
    ];
    daemon.send("OPTIONS", "/v1/chat/completions", &asks, b"")
}

#[test]
fn foreign_pages_get_nothing_unless_they_are_listed() {
    let plain = TestDaemon::start();
    let reply = preflight(&plain, "http://evil.example");
    assert_eq!(reply.error(405)["code"], "method_not_allowed");
    assert!(reply.headers.iter().all(|(name, _)| !name.starts_with("access-control")), "{:?}", reply.headers);

    let listing = TestDaemon::builder().set("daemon.cors_origins=https://a.example, http://b.example:8000").start();
    for origin in ["https://a.example", "http://b.example:8000"] {
        let reply = preflight(&listing, origin);
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some(origin)));
        let allowed = reply.header("access-control-allow-headers").expect("a list");
        for name in SENT_BY_PAGES.split(',') {
            assert!(allowed.split(',').any(|one| one.trim().eq_ignore_ascii_case(name)), "{name} is not in {allowed}");
        }
        assert!(reply.header("access-control-allow-credentials").is_none());
        let read = listing.send("GET", "/v1/models", &[("origin", origin)], b"");
        assert_eq!(read.header("access-control-allow-origin"), Some(origin));
        assert!(read.header("access-control-expose-headers").is_some_and(|names| names.contains("x-honed-version")));
    }
    for origin in ["http://evil.example", "https://a.example.evil.example", "http://a.example", "null"] {
        assert!(preflight(&listing, origin).header("access-control-allow-origin").is_none(), "{origin}");
        let read = listing.send("GET", "/v1/models", &[("origin", origin)], b"");
        assert!(read.header("access-control-allow-origin").is_none(), "{origin}");
    }
    listing.send("GET", "/v1/policies", &[("origin", "https://a.example")], b"").error(403);
}

#[test]
fn every_answer_carries_a_request_id() {
    let daemon = TestDaemon::start();
    let id = |headers: &[(&str, &str)], path: &str| {
        daemon.send("GET", path, headers, b"").header("x-request-id").expect("every answer has one").to_owned()
    };
    assert_eq!(id(&[("x-request-id", "trace-7/a")], "/livez"), "trace-7/a");
    for path in ["/livez", "/nowhere", "/v1/completions", "/v1/models"] {
        assert!(id(&[], path).starts_with("req-"), "{path}");
    }
    for odd in ["a b", "\"quoted\"", &"a".repeat(200)] {
        assert!(id(&[("x-request-id", odd)], "/livez").starts_with("req-"), "{odd}");
    }
    assert_ne!(id(&[], "/livez"), id(&[], "/livez"));
    let stream = daemon.stream("/v1/completions", &json!({"prompt": "a", "max_tokens": 2, "stream": true}));
    assert!(stream.header("x-request-id").is_some());
}

/// A server that answers everything with 500 and the request itself.
fn echoing_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a client");
            let mut asked = vec![0; 1 << 16];
            let mut n_read = 0;
            while !asked[..n_read].ends_with(b"}") {
                n_read += socket.read(&mut asked[n_read..]).expect("a request");
            }
            let head = format!("HTTP/1.1 500 Oops\r\ncontent-length: {n_read}\r\nconnection: close\r\n\r\n");
            // Whoever hung up has read enough.
            let _ = socket.write_all(&[head.as_bytes(), &asked[..n_read]].concat());
        }
    });
    address
}

/// Goal: an operator finds a request in the log by its id, and nobody's words beside it. Method: a marked text through every
/// route that takes one, well and badly; a reward server that answers with what it was asked and a 500; then the log of a real
/// process, with access lines on.
#[test]
fn the_log_names_requests_and_tells_no_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("honed.log");
    let remote = format!("reward.remote_url=http://{}/", echoing_server());
    let sets = ["ppo.enabled=false", "reward.source=remote", &remote, "reward.remote_retries=0"];
    let daemon = Process::serve_logged(&folder.path().join("data"), &sets, &log, "info,honed::access=debug");
    let marked = "the xyzzyplugh ocean";
    let good = [
        ("/v1/completions", json!({"prompt": marked, "max_tokens": 2, "user": marked, "stop": ["xyzzyplugh"]})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": marked}], "max_tokens": 2})),
        ("/tokenize", json!({"prompt": marked})),
        ("/v1/rewards", json!({"input": [{"prompt": marked, "completion": marked}]})),
        ("/get_reward", json!({"query": [marked]})),
    ];
    let bad = [
        ("/v1/completions", json!({"prompt": marked, "max_tokens": marked, "model": marked})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": {"text": marked}}]})),
        ("/score", json!({"text_1": [marked, marked, marked], "text_2": [marked, marked]})),
        ("/v1/feedback", json!({"id": "cmpl-0", "comment": marked, "edit": marked})),
        ("/xyzzyplugh?xyzzyplugh=1", json!({})),
    ];
    for (i, (path, body)) in good.iter().chain(&bad).enumerate() {
        let id = format!("walk-{i}");
        let headers = [JSON, ("x-request-id", id.as_str())];
        client::raw(daemon.address, &request("POST", path, &headers, body.to_string().as_bytes()));
    }
    drop(daemon);
    let log = std::fs::read_to_string(log).expect("a log");
    for i in 0..good.len() + bad.len() {
        assert!(log.contains(&format!("walk-{i}")), "request {i} is not in the log:\n{log}");
    }
    let failed = log.lines().find(|line| line.contains("scoring failed")).expect("the reward server fails");
    assert!(failed.contains("HTTP status 500"), "{failed}");
    assert!(failed.contains("walk-3") || failed.contains("walk-4"), "{failed}");
    assert!(!log.contains("xyzzyplugh"), "{log}");
}

/// Goal: whatever the path, the method or the type, the error has OpenAI's shape. Method: each of them wrong, on routes of
/// every family.
#[test]
fn wrong_paths_methods_and_types_have_openais_shape() {
    let daemon = TestDaemon::start();
    for path in ["/v1/completions/", "//v1/models", "/V1/models", "/v1", "/score/1", "/%2e%2e/etc/passwd"] {
        assert_eq!(daemon.get(path).error(404)["code"], "not_found", "{path}");
    }
    let posts = ["/v1/completions", "/score", "/tokenize", "/v1/feedback", "/rerank"];
    let gets = ["/v1/models", "/health", "/version", "/metrics", "/v1/rollouts", "/v1/policies/0", "/tokenizer_info"];
    let check = |method: &str, path: &str, allowed: &str| {
        let reply = daemon.send(method, path, &[JSON], b"{}");
        assert_eq!(reply.error(405)["code"], "method_not_allowed", "{method} {path}");
        assert!(reply.header("allow").is_some_and(|allow| allow.contains(allowed)), "{method} {path}");
    };
    for path in posts {
        for method in ["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"] {
            check(method, path, "POST");
        }
        let plain = daemon.send("POST", path, &[("content-type", "text/plain")], b"hello");
        assert_eq!(plain.error(415)["code"], "unsupported_media_type", "{path}");
    }
    for path in gets {
        check("POST", path, "GET");
    }
}

/// Goal: a path that is no text is refused and counted like any other mistake. Method: every route that has a parameter
/// in its path, with a byte there that is not UTF-8, and the counter before and after.
#[test]
fn paths_that_are_no_text_have_openais_shape() {
    let daemon = TestDaemon::start();
    let n_refused = || daemon.metric("honed_errors_total{code=\"invalid_path\"}");
    let routes = [
        ("GET", "/v1/models/%ff"),
        ("GET", "/v1/models/a/%c3"),
        ("GET", "/v1/policies/%ff"),
        ("POST", "/v1/policies/%ff/activate"),
    ];
    for (n_before, (method, path)) in (0u8..).zip(routes) {
        assert_eq!(n_refused(), f64::from(n_before), "before {method} {path}");
        let reply = daemon.send(method, path, &[JSON], b"");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{method} {path}");
        let error = reply.error(400);
        assert_eq!((&error["code"], &error["param"]), (&json!("invalid_path"), &Value::Null), "{method} {path}");
        assert_eq!(error["type"], "invalid_request_error", "{method} {path}");
    }
    assert_eq!(n_refused(), 4.0);
    assert_eq!(daemon.get("/v1/models/%66").error(404)["code"], "model_not_found", "an escape of text is text");
}

#[test]
fn health_and_version_answer_as_llama_server_does() {
    let daemon = TestDaemon::start();
    for path in ["/health", "/v1/health"] {
        assert_eq!(daemon.get(path).ok()["status"], "ok", "{path}");
    }
    let version = daemon.get("/version").ok()["version"].clone();
    assert!(version.as_str().is_some_and(|version| version.split('.').count() == 3), "{version}");
}

/// Goal: the log is read page by page, each row once, by version and state. Method: seven exchanges, pages of three.
#[test]
fn rollouts_are_read_page_by_page() {
    let daemon = TestDaemon::start();
    for i in 0..7 {
        let model = if i % 2 == 0 { "policy" } else { "sft" };
        daemon.post("/v1/completions", &json!({"model": model, "prompt": "a", "max_tokens": 1})).ok();
    }
    let page = |query: &str| daemon.get(&format!("/v1/rollouts{query}")).ok();
    let rows = |page: &Value| page["data"].as_array().expect("rows").clone();
    daemon.wait_for("all are committed", |_| rows(&page("")).len() == 7);
    let (mut seen, mut after) = (Vec::new(), Value::from(0));
    loop {
        let next = page(&format!("?limit=3&after={after}&version=0&state=generated"));
        seen.extend(rows(&next).iter().map(|row| row["seq"].as_i64().expect("a position")));
        assert!(seen.len() <= 7, "a row came twice: {seen:?}");
        if next["next_after"].is_null() {
            break;
        }
        after = next["next_after"].clone();
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted(), "newest last: {seen:?}");
    assert!(rows(&page("?version=1")).is_empty() && rows(&page("?state=trained")).is_empty());
    for (param, query) in [
        ("limit", "?limit=0"),
        ("limit", "?limit=1001"),
        ("after", "?after=-1"),
        ("version", "?version=x"),
        ("state", "?state=odd"),
    ] {
        assert_eq!(daemon.get(&format!("/v1/rollouts{query}")).error(400)["param"], param, "{query}");
    }
    let elapsed = Instant::now();
    assert!(rows(&page("?after=9223372036854775807")).is_empty() && elapsed.elapsed() < Duration::from_secs(5));
}
