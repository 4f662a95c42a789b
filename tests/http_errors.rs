//! Bad input: each gets OpenAI's error shape and names its field, and the next good request works.

use serde_json::json;

use crate::harness::{
    TestDaemon,
    client::{self, request},
};

const JSON: (&str, &str) = ("content-type", "application/json");

fn good(daemon: &TestDaemon) {
    let answer = daemon.post("/v1/completions", &json!({"prompt": "the", "max_tokens": 2})).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 2);
}

/// Goal: whatever a client sends, it is told which field is wrong. Method: one wrong field at a time, then a good request.
#[test]
fn wrong_fields_are_named_and_the_next_request_works() {
    let daemon = TestDaemon::start();
    let too_many = ["best_of", "n"].map(|name| json!({"prompt": vec!["a"; 20], name: 128}).to_string());
    let cases = [
        ("prompt", r#"{}"#),
        ("prompt", r#"{"prompt":null}"#),
        ("prompt", r#"{"prompt":""}"#),
        ("prompt", r#"{"prompt":[]}"#),
        ("prompt", r#"{"prompt":[[]]}"#),
        ("prompt", r#"{"prompt":[""]}"#),
        ("prompt", r#"{"prompt":[-1]}"#),
        ("prompt", r#"{"prompt":[100000]}"#),
        ("prompt", r#"{"prompt":[2147483648]}"#),
        ("prompt", r#"{"prompt":[1.5]}"#),
        ("prompt", r#"{"prompt":["a",1]}"#),
        ("max_tokens", r#"{"prompt":"a","max_tokens":-1}"#),
        ("max_tokens", r#"{"prompt":"a","max_tokens":0}"#),
        ("max_tokens", r#"{"prompt":"a","max_tokens":9223372036854775808}"#),
        ("max_tokens", r#"{"prompt":"a","max_tokens":1.5}"#),
        ("max_tokens", r#"{"prompt":"a","max_tokens":"5"}"#),
        ("max_tokens", r#"{"prompt":"a","max_tokens":100000}"#),
        ("n", r#"{"prompt":"a","n":0}"#),
        ("n", r#"{"prompt":"a","n":129}"#),
        ("n", r#"{"prompt":"a","n":1000000000}"#),
        ("best_of", r#"{"prompt":"a","n":2,"best_of":1}"#),
        ("best_of", r#"{"prompt":"a","best_of":3,"stream":true}"#),
        ("best_of", too_many[0].as_str()),
        ("n", too_many[1].as_str()),
        ("cache_salt", r#"{"prompt":"a","cache_salt":""}"#),
        ("prompt_logprobs", r#"{"prompt":"a","prompt_logprobs":-1}"#),
        ("logprobs", r#"{"prompt":"a","logprobs":21}"#),
        ("logprobs", r#"{"prompt":"a","logprobs":true}"#),
        ("temperature", r#"{"prompt":"a","temperature":-1}"#),
        ("temperature", r#"{"prompt":"a","temperature":2.1}"#),
        ("temperature", r#"{"prompt":"a","temperature":1e38}"#),
        ("top_p", r#"{"prompt":"a","top_p":1.1}"#),
        ("top_k", r#"{"prompt":"a","top_k":-5}"#),
        ("min_p", r#"{"prompt":"a","min_p":-0.1}"#),
        ("stop", r#"{"prompt":"a","stop":["1","2","3","4","5"]}"#),
        ("stop", r#"{"prompt":"a","stop":[""]}"#),
        ("stop", r#"{"prompt":"a","stop":1}"#),
        ("seed", r#"{"prompt":"a","seed":18446744073709551616}"#),
        ("logit_bias", r#"{"prompt":"a","logit_bias":{"100000":1}}"#),
        ("logit_bias", r#"{"prompt":"a","logit_bias":{"1":1e9}}"#),
        ("stop_token_ids", r#"{"prompt":"a","stop_token_ids":[100000]}"#),
        ("frequency_penalty", r#"{"prompt":"a","frequency_penalty":2.1}"#),
        ("repetition_penalty", r#"{"prompt":"a","repetition_penalty":0}"#),
        ("stream", r#"{"prompt":"a","stream":"yes"}"#),
        ("stream_options", r#"{"prompt":"a","stream_options":{"include_usage":true}}"#),
        ("suffix", r#"{"prompt":"a","suffix":"b"}"#),
        ("response_format.json_schema", r#"{"prompt":"a","response_format":{"type":"json_schema"}}"#),
        ("grammar", r#"{"prompt":"a","grammar":"root ::= root"}"#),
        ("user", r#"{"prompt":"a","user":5}"#),
    ];
    for (param, body) in cases {
        let error = daemon.post_bytes("/v1/completions", body.as_bytes()).error(400);
        assert_eq!(error["param"], param, "{body}: {error}");
        assert_eq!(error["type"], "invalid_request_error", "{body}");
    }
    good(&daemon);
}

#[test]
fn broken_bodies_are_refused_as_a_whole() {
    let daemon = TestDaemon::start();
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 12] = [
        b"",
        b"[]",
        b"5",
        b"\"x\"",
        b"true",
        b"null",
        b"{\"prompt\":",
        b"{\"temperature\":NaN}",
        b"{\"max_tokens\":1e309}",
        b"{\"prompt\":\"\\ud800\"}",
        b"{\"prompt\":\"\xff\"}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let error = daemon.post_bytes("/v1/completions", body).error(400);
        assert!(error["param"].is_null(), "{error}");
    }
    good(&daemon);
}

#[test]
fn unknown_fields_and_odd_characters_are_fine() {
    let daemon = TestDaemon::start();
    let body = json!({"prompt": "a\u{0}b", "max_tokens": 2, "metadata": {"a": 1}, "user": "x\r\ny", "stop": null, "top_k": -1});
    daemon.post("/v1/completions", &body).ok();
}

/// Goal: nothing is cut silently. Method: token-id prompts one below, at and above the window.
#[test]
fn prompts_that_do_not_fit_the_window_are_refused() {
    let daemon = TestDaemon::start();
    let prompt = |n: usize| json!({"prompt": vec![7; n], "max_tokens": 1});
    let window = crate::harness::model::WINDOW;
    assert_eq!(daemon.post("/v1/completions", &prompt(window - 1)).ok()["usage"]["completion_tokens"], 1);
    for n in [window, window + 1, 100_000] {
        let error = daemon.post("/v1/completions", &prompt(n)).error(400);
        assert_eq!(error["code"], "context_length_exceeded", "{n}");
    }
    let long = "a".repeat(1_000_000);
    daemon.post("/v1/completions", &json!({"prompt": long})).error(400);
    good(&daemon);
}

#[test]
fn wrong_messages_are_named() {
    let daemon = TestDaemon::start();
    let cases = [
        ("messages", json!({})),
        ("messages", json!({"messages": []})),
        ("messages[0].role", json!({"messages": [{"role": "boss", "content": "a"}]})),
        ("messages[0].content", json!({"messages": [{"role": "user", "content": null}]})),
        ("messages[0].content[0].type", json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
        (
            "messages[0].content[1].type",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {}]}]}),
        ),
        ("messages", json!({"messages": [{"role": "user", "content": "a ".repeat(1_000_000)}]})),
        ("max_completion_tokens", json!({"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 0})),
        (
            "max_completion_tokens",
            json!({"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 1_000_000}),
        ),
        (
            "response_format.type",
            json!({"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "yaml"}}),
        ),
        (
            "add_generation_prompt",
            json!({"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": false}),
        ),
        ("tools", json!({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]})),
        ("chat_template", json!({"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 1 }}"})),
        ("top_logprobs", json!({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 1})),
    ];
    for (param, body) in cases {
        assert_eq!(daemon.post("/v1/chat/completions", &body).error(400)["param"], param, "{body:.200}");
    }
    let plain =
        json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "response_format": {"type": "text"}});
    daemon.post("/v1/chat/completions", &plain).ok();
    good(&daemon);
}

#[test]
fn names_that_are_no_model_are_not_found() {
    let daemon = TestDaemon::start();
    for model in ["gpt-4", "policy@", "policy@x", "policy@7", "policy@-1", "../../etc/passwd", "POLICY"] {
        let error = daemon.post("/v1/completions", &json!({"model": model, "prompt": "a"})).error(404);
        assert_eq!(
            (error["code"].as_str(), error["param"].as_str()),
            (Some("model_not_found"), Some("model")),
            "{model}"
        );
    }
    daemon.post("/v1/completions", &json!({"model": "m".repeat(1_000_000), "prompt": "a"})).error(400);
}

#[test]
fn routes_methods_types_and_sizes_have_their_codes() {
    let daemon = TestDaemon::builder().set("daemon.body_bytes_max=2048").start();
    daemon.get("/v1/nothing").error(404);
    daemon.get("//v1/completions").error(404);
    daemon.get("/v1/completions").error(405);
    daemon.send("PUT", "/v1/completions", &[JSON], b"{}").error(405);
    daemon.send("POST", "/v1/completions", &[], b"{}").error(415);
    daemon.send("POST", "/v1/completions", &[("content-type", "text/plain")], b"{}").error(415);
    daemon.send("POST", "/v1/completions", &[JSON, ("content-encoding", "gzip")], b"{}").error(415);
    daemon.post_bytes("/v1/completions", &[b' '; 2049]).error(413);
    let chunked = [
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1000\r\n"
            .as_slice(),
        &[b' '; 4096],
        b"\r\n0\r\n\r\n",
    ];
    client::raw(daemon.address(), &chunked.concat()).error(413);
    good(&daemon);
}

/// Goal: no request takes more memory than there is. Method: an answer of more numbers than one may have, in a window where each
/// of its choices fits.
#[test]
fn an_answer_that_would_be_too_large_is_refused() {
    let daemon = TestDaemon::start();
    let body = |max_tokens: usize| json!({"prompt": vec!["a"; 16], "n": 128, "max_tokens": max_tokens, "logprobs": 20});
    let error = daemon.post("/v1/completions", &body(98)).error(400);
    assert_eq!((&error["param"], &error["code"]), (&json!("max_tokens"), &json!("fields_disagree")));
    assert!(
        error["message"].as_str().expect("words").contains("at most 4194304 in one request, not 4214784"),
        "{error}"
    );
}

#[test]
fn malformed_http_is_cut_off_and_the_daemon_lives() {
    let daemon = TestDaemon::start();
    let huge = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx-a: {}\r\n\r\n", "a".repeat(200_000));
    assert_eq!(client::raw(daemon.address(), huge.as_bytes()).status, 431);
    let many: String = (0..10_000).map(|i| format!("x-{i}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{many}\r\n");
    assert_eq!(client::raw(daemon.address(), many.as_bytes()).status, 431);
    let smuggled =
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n{}{}";
    assert_eq!(client::raw(daemon.address(), smuggled).status, 400);
    good(&daemon);
}

/// Goal: slow headers do not hold a connection. Method: half a request, then wait for the daemon to hang up.
#[test]
fn slow_headers_are_cut_off() {
    use std::io::Write;
    let daemon = TestDaemon::builder().set("daemon.header_timeout_s=1").start();
    let mut socket = client::connect(daemon.address());
    socket.write_all(b"GET / HTTP/1.1\r\nhost:").expect("sent");
    // Either an answer that says so or a bare end; what matters is that the end comes.
    client::until_hung_up(socket);
    good(&daemon);
}

#[test]
fn keys_open_what_they_are_for() {
    let daemon = TestDaemon::builder()
        .keys("daemon.api_keys_file", "# people\nuser-key\n")
        .keys("daemon.admin_keys_file", "root-key\n")
        .start();
    let get = |path: &str, key: &str| daemon.send("GET", path, &[("authorization", &format!("Bearer {key}"))], b"");
    assert_eq!(daemon.get("/v1/models").error(401)["code"], "invalid_api_key");
    for key in ["", "user", "user-ke", "user-keyy", "us\u{e9}r"] {
        get("/v1/models", key).error(401);
    }
    get("/v1/models", "user-key").ok();
    get("/v1/models", "root-key").ok();
    get("/v1/policies", "user-key").error(403);
    get("/v1/policies", "root-key").ok();
    daemon.get("/v1/policies").error(401);
    assert_eq!(daemon.get("/livez").status, 200, "probes need no key");
}

#[test]
fn foreign_pages_do_not_reach_the_admin_routes() {
    let daemon = TestDaemon::start();
    let activate = |headers: &[(&str, &str)]| daemon.send("POST", "/v1/policies/0/activate", headers, b"");
    activate(&[("origin", "http://evil.example")]).error(403);
    activate(&[("x-forwarded-for", "10.0.0.1")]).error(403);
    let rebound = request("GET", "/v1/policies", &[], b"");
    let rebound = String::from_utf8(rebound).expect("text").replace("host: 127.0.0.1", "host: evil.example");
    client::raw(daemon.address(), rebound.as_bytes()).error(403);
    daemon.get("/v1/policies").ok();
}
