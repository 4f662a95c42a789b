//! Spans for a collector: which there are, whose trace they are part of, and that serving never waits for any of it.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::TestDaemon;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A collector that takes whatever comes, and hands out the body of every post.
fn collector() -> (SocketAddr, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (send, posts) = mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, send) = (socket.expect("a client"), send.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(socket);
                while let Some(body) = post(&mut reader) {
                    let _ = send.send(body);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
                    if reader.get_mut().write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, posts)
}

fn post(reader: &mut impl BufRead) -> Option<Value> {
    let mut n_bytes = 0;
    let mut line = String::new();
    assert!(reader.read_line(&mut line).is_err() || line.is_empty() || line.starts_with("POST /v1/traces "), "{line}");
    while line != "\r\n" {
        if line.is_empty() {
            return None;
        }
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            n_bytes = length.trim().parse().expect("a number");
        }
        line.clear();
        reader.read_line(&mut line).ok()?;
    }
    let mut body = vec![0; n_bytes];
    reader.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).expect("JSON"))
}

fn tracing(collector: SocketAddr) -> TestDaemon {
    TestDaemon::builder().set(format!("daemon.traces_url=http://{collector}/v1/traces")).start()
}

/// The span of this name, taken out of those that came.
fn until(posts: &Receiver<Value>, spans: &mut Vec<Value>, name: &str) -> Value {
    until_one(posts, spans, &|span| span["name"] == *name)
}

/// The first span that is so, taken out of those that came.
fn until_one(posts: &Receiver<Value>, spans: &mut Vec<Value>, is_it: &dyn Fn(&Value) -> bool) -> Value {
    loop {
        if let Some(at) = spans.iter().position(is_it) {
            return spans.swap_remove(at);
        }
        let post = posts.recv_timeout(Duration::from_secs(30)).expect("a post");
        let resource = &post["resourceSpans"][0];
        assert_eq!(attribute(&resource["resource"], "service.name"), "honed");
        spans.extend(resource["scopeSpans"][0]["spans"].as_array().expect("spans").clone());
    }
}

fn attribute(of: &Value, key: &str) -> Value {
    let all = of["attributes"].as_array().expect("attributes").iter();
    let value = all.filter(|pair| pair["key"] == *key).map(|pair| pair["value"].clone()).next_back();
    let value = value.unwrap_or_else(|| panic!("no {key} in {of}"));
    value.as_object().expect("a value").values().next().expect("one").clone()
}

fn ns(span: &Value, field: &str) -> u64 {
    span[field].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{field} of {span}"))
}

/// Goal: a request is one span of the caller's trace, and what it waited for are spans inside it. Method: a completion, whole and
/// streamed, with the caller's header; a bad one; probes, which are no traces; and nobody's words anywhere.
#[test]
fn requests_are_spans_of_their_callers_trace() {
    let (address, posts) = collector();
    let daemon = tracing(address);
    let parent = format!("00-{TRACE}-{SPAN}-01");
    for (stream, n) in [(false, 2), (true, 1)] {
        let body = json!({"prompt": "the xyzzyplugh ocean", "max_tokens": 3, "n": n, "stream": stream,
            "ignore_eos": true, "user": "xyzzyplugh"});
        let headers =
            [("content-type", "application/json"), ("traceparent", parent.as_str()), ("x-request-id", "walk-1")];
        assert_eq!(daemon.send("POST", "/v1/completions", &headers, body.to_string().as_bytes()).status, 200);
        let mut spans = Vec::new();
        let root = until(&posts, &mut spans, "POST /v1/completions");
        assert_eq!((&root["traceId"], &root["parentSpanId"], &root["kind"]), (&json!(TRACE), &json!(SPAN), &json!(2)));
        assert_eq!(attribute(&root, "http.response.status_code"), "200");
        assert_eq!(attribute(&root, "honed.request_id"), "walk-1");
        assert_eq!(attribute(&root, "gen_ai.response.model"), "policy@0");
        assert!(root.get("status").is_none());
        for choice in 0..n {
            let of_choice = |span: &Value, name: &str| {
                span["name"] == *name && attribute(span, "honed.choice").as_str() == Some(choice.to_string().as_str())
            };
            let parts =
                ["queue", "prefill", "decode"].map(|name| until_one(&posts, &mut spans, &|span| of_choice(span, name)));
            for part in &parts {
                assert_eq!(
                    (&part["traceId"], &part["parentSpanId"], &part["kind"]),
                    (&json!(TRACE), &root["spanId"], &json!(1))
                );
                assert!(ns(part, "startTimeUnixNano") <= ns(part, "endTimeUnixNano"), "{part}");
                assert!(ns(part, "endTimeUnixNano") <= ns(&root, "endTimeUnixNano") + 1_000_000, "{part} in {root}");
            }
            assert_eq!(ns(&parts[0], "endTimeUnixNano"), ns(&parts[1], "startTimeUnixNano"));
            assert_eq!(ns(&parts[1], "endTimeUnixNano"), ns(&parts[2], "startTimeUnixNano"));
            assert_eq!(attribute(&parts[2], "gen_ai.usage.output_tokens"), "3");
        }
        assert!(spans.is_empty() && !format!("{root}").contains("xyzzyplugh"), "{spans:?}");
    }
    for probe in ["/livez", "/metrics", "/health"] {
        daemon.get(probe);
    }
    daemon.post("/v1/completions", &json!({"prompt": "xyzzyplugh", "max_tokens": -1})).error(400);
    let mut spans = Vec::new();
    let bad = until(&posts, &mut spans, "POST /v1/completions");
    assert_eq!((attribute(&bad, "error.type"), spans.len()), (json!("invalid_value"), 0));
    assert!(bad.get("parentSpanId").is_none() && bad["traceId"] != TRACE && !bad.to_string().contains("xyzzyplugh"));
    daemon.wait_for("all are counted", |d| d.metric("honed_trace_spans_exported_total") == 12.0);
}

#[test]
fn the_caller_decides_whether_its_trace_is_kept() {
    let (address, posts) = collector();
    let never = TestDaemon::builder()
        .set(format!("daemon.traces_url=http://{address}/v1/traces"))
        .set("daemon.traces_share=0")
        .start();
    let get =
        |flags: &str| never.send("GET", "/v1/models", &[("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))], b"");
    never.get("/v1/models").ok();
    get("00").ok();
    get("01").ok();
    let mut spans = Vec::new();
    let kept = until(&posts, &mut spans, "GET /v1/models");
    assert_eq!((&kept["traceId"], spans.len()), (&json!(TRACE), 0));
    // What waits at the end is sent before the end.
    get("01").ok();
    never.stop();
    until(&posts, &mut spans, "GET /v1/models");
    assert!(spans.is_empty());
}

/// Goal: a collector that is down, or takes connections and says nothing, costs an answer nothing. Method: both, with requests
/// answered at once, and the spans counted as dropped.
#[test]
fn a_collector_that_fails_costs_nobody_an_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let down = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    for address in [silent.local_addr().expect("bound"), down] {
        let daemon = tracing(address);
        let began = Instant::now();
        for _ in 0..20 {
            daemon.get("/v1/models").ok();
        }
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        let dropped = "honed_trace_spans_dropped_total{reason=\"export_failed\"}";
        daemon.wait_for("the spans are given up", |d| d.metric(dropped) >= 20.0);
        assert_eq!(daemon.metric("honed_trace_spans_exported_total"), 0.0);
    }
}
