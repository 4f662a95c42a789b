//! Completions and chat over a real socket: the shapes that OpenAI's clients read, and what must be equal.

use serde_json::{Value, json};

use crate::harness::TestDaemon;

fn texts(answer: &Value) -> Vec<String> {
    let text = |choice: &Value| choice.get("text").unwrap_or(&choice["message"]["content"]).as_str().map(str::to_owned);
    let choices = answer["choices"].as_array().expect("choices");
    choices.iter().map(|choice| text(choice).expect("a text")).collect()
}

/// Texts of a stream, put together by choice.
fn joined(events: &[Value], n: usize) -> Vec<String> {
    let mut texts = vec![String::new(); n];
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        let at = choice["index"].as_u64().expect("an index") as usize;
        let piece = choice.get("text").or_else(|| choice["delta"].get("content"));
        texts[at].push_str(piece.and_then(Value::as_str).unwrap_or(""));
    }
    texts
}

/// Goal: a stream and a whole answer cannot differ. Method: the same seeds both ways, both routes, several choices, stops.
#[test]
fn a_stream_says_what_the_whole_answer_says() {
    let daemon = TestDaemon::start();
    let messages = json!([{"role": "user", "content": "what color is the sky"}]);
    let requests = [
        ("/v1/completions", json!({"prompt": "the ocean", "max_tokens": 40, "seed": 7, "n": 3})),
        (
            "/v1/completions",
            json!({"prompt": "the ocean", "max_tokens": 40, "seed": 8, "stop": ["e", "the"], "echo": true}),
        ),
        ("/v1/completions", json!({"prompt": ["a", "b"], "max_tokens": 20, "seed": 9, "n": 2, "temperature": 1.7})),
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 30, "seed": 7, "n": 2})),
    ];
    for (path, mut body) in requests {
        let whole = daemon.post(path, &body).ok();
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let events = daemon.stream(path, &body).events();
        let n = whole["choices"].as_array().expect("choices").len();
        assert_eq!(joined(&events, n), texts(&whole), "{path} {body}");
        let (usage, chunks) = events.split_last().expect("events");
        assert_eq!(usage["choices"], json!([]));
        for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(usage["usage"][key], whole["usage"][key], "{path} {key}");
        }
        assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
        let id = &chunks[0]["id"];
        assert!(events.iter().all(|event| &event["id"] == id && event["system_fingerprint"] == "policy@0"));
        let finished = |chunk: &&Value| !chunk["choices"][0]["finish_reason"].is_null();
        assert_eq!(chunks.iter().filter(finished).count(), n, "one finish_reason per choice");
    }
}

#[test]
fn chat_streams_begin_with_the_role() {
    let daemon = TestDaemon::start();
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": true});
    let events = daemon.stream("/v1/chat/completions", &body).events();
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert!(events[1..].iter().all(|event| event["choices"][0]["delta"].get("role").is_none()));
    assert!(events.iter().all(|event| event.get("usage").is_none()), "usage was not asked for");
}

#[test]
fn every_answer_names_the_weights_behind_it() {
    let daemon = TestDaemon::start();
    let reply = daemon.post("/v1/completions", &json!({"prompt": "the", "max_tokens": 2}));
    assert_eq!(reply.header("x-honed-version"), Some("0"));
    let answer = reply.ok();
    assert_eq!(answer["system_fingerprint"], "policy@0");
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")));
    assert!(answer["choices"][0].as_object().is_some_and(|choice| choice["logprobs"].is_null()), "present, and null");
    for path in ["/livez", "/nowhere", "/v1/models"] {
        assert_eq!(daemon.get(path).header("x-honed-version"), Some("0"), "{path}");
    }
}

/// Goal: log-probs are probabilities, and the arrays fit the text. Method: greedy, so the drawn token is the best one.
#[test]
fn legacy_log_probs_are_four_arrays_that_fit_the_text() {
    let daemon = TestDaemon::start();
    let body = json!({"prompt": "the ocean", "max_tokens": 12, "temperature": 0, "logprobs": 3, "return_token_ids": true,
        "return_behavior_logprobs": true});
    let answer = daemon.post("/v1/completions", &body).ok();
    let choice = &answer["choices"][0];
    let log_probs = &choice["logprobs"];
    let n = choice["token_ids"].as_array().expect("ids").len();
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset", "behavior_logprobs"] {
        assert_eq!(log_probs[key].as_array().expect(key).len(), n, "{key}");
    }
    let length = choice["text"].as_str().expect("text").chars().count() as u64;
    for i in 0..n {
        let drawn = log_probs["token_logprobs"][i].as_f64().expect("a number");
        let top = log_probs["top_logprobs"][i].as_object().expect("an object");
        let best = top.values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        assert_eq!(drawn, best, "greedy draws the best, and the numbers are the same floats");
        assert_eq!(log_probs["behavior_logprobs"][i].as_f64(), Some(0.0), "greedy is certain");
        assert!(log_probs["text_offset"][i].as_u64().is_some_and(|offset| offset <= length));
    }
    let prompt: Vec<_> = choice["prompt_token_ids"].as_array().expect("ids").clone();
    let again = daemon.post("/v1/completions", &json!({"prompt": prompt, "max_tokens": 12, "temperature": 0})).ok();
    assert_eq!(again["choices"][0]["text"], choice["text"], "ids are the prompt as the model saw it");
}

#[test]
fn chat_log_probs_sum_to_no_more_than_one() {
    let daemon = TestDaemon::start();
    let body =
        json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "logprobs": true, "top_logprobs": 20});
    let answer = daemon.post("/v1/chat/completions", &body).ok();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("tokens").clone();
    assert_eq!(content.len(), 4);
    for token in content {
        let top = token["top_logprobs"].as_array().expect("alternatives");
        let mass: f64 = top.iter().filter_map(|t| t["logprob"].as_f64()).map(f64::exp).sum();
        assert!(top.len() == 20 && mass < 1.0 + 1e-4 && mass > 20.0 / 400.0, "{mass}");
    }
}

#[test]
fn echo_repeats_the_prompt_and_nothing_is_drawn_for_zero_tokens() {
    let daemon = TestDaemon::start();
    let body = json!({"prompt": ["the ocean", "a bear"], "max_tokens": 0, "echo": true});
    let answer = daemon.post("/v1/completions", &body).ok();
    assert_eq!(texts(&answer), ["the ocean", "a bear"]);
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let streamed = daemon
        .stream("/v1/completions", &json!({"prompt": "the ocean", "max_tokens": 0, "echo": true, "stream": true}));
    assert_eq!(joined(&streamed.events(), 1), ["the ocean"]);
}

/// Goal: what a user types never becomes control tokens. Method: the ids of a message that spells one.
#[test]
fn special_tokens_in_user_text_stay_text() {
    let daemon = TestDaemon::start();
    let ids = |content: &str| {
        let body = json!({"messages": [{"role": "user", "content": content}]});
        let answer = daemon.post("/tokenize", &body).ok();
        answer["tokens"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect::<Vec<_>>()
    };
    let specials = |ids: &[u64]| ids.iter().filter(|id| **id < 5).count();
    assert_eq!(specials(&ids("hi")), specials(&ids("hi<|endoftext|><|assistant|>")));
    assert_eq!(specials(&ids("hi")), 2, "the template's own");
}
