//! Scored prompts over a real socket: `echo` with `logprobs`, and vLLM's `prompt_logprobs`.

use std::io::{BufReader, Write};

use serde_json::{Value, json};

use crate::harness::{TestDaemon, client};

fn numbers(list: &Value) -> Vec<Option<f64>> {
    list.as_array().expect("a list").iter().map(Value::as_f64).collect()
}

/// Goal: what lm-evaluation-harness reads is right: a null first, the prompt's tokens with their log-probs, and a drawn
/// token's best alternative as an equal float. Method: its own request, and the same text scored as a response: greedy
/// continuations have known log-probs.
#[test]
fn echoed_log_probs_are_those_of_the_same_tokens_drawn() {
    let daemon = TestDaemon::start();
    let prompt = daemon.post("/tokenize", &json!({"prompt": "the ocean is vast"})).ok()["tokens"].clone();
    let n_prompt = prompt.as_array().expect("ids").len();
    let drawn = json!({"prompt": prompt, "max_tokens": 20, "temperature": 0, "logprobs": 1, "return_token_ids": true,
        "ignore_eos": true});
    let drawn = daemon.post("/v1/completions", &drawn).ok()["choices"][0].clone();
    let mut ids = prompt.as_array().expect("ids").clone();
    ids.extend(drawn["token_ids"].as_array().expect("ids").clone());
    let harness =
        json!({"prompt": [ids], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true, "seed": 1234});
    let answer = daemon.post("/v1/completions", &harness).ok();
    let log_probs = &answer["choices"][0]["logprobs"];
    let all = numbers(&log_probs["token_logprobs"]);
    assert_eq!(all.len(), ids.len() + 1);
    assert_eq!(all[0], None);
    assert!(log_probs["top_logprobs"][0].is_null());
    for (i, want) in numbers(&drawn["logprobs"]["token_logprobs"]).into_iter().enumerate() {
        let (got, want) = (all[n_prompt + i].expect("a number"), want.expect("a number"));
        assert!((got - want).abs() < 1e-4, "token {i}: {got} {want}");
        let top = log_probs["top_logprobs"][n_prompt + i].as_object().expect("an object");
        let best = top.values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        assert_eq!(got, best, "greedy tokens are the best, and the numbers are the same floats");
    }
}

#[test]
fn echoed_arrays_fit_the_text_with_and_without_a_response() {
    let daemon = TestDaemon::start();
    for max_tokens in [0, 5] {
        let body = json!({"prompt": ["the ocean é 🌊", "a bear"], "max_tokens": max_tokens, "echo": true, "logprobs": 20,
            "seed": 3, "n": 2, "return_behavior_logprobs": true, "ignore_eos": true});
        let answer = daemon.post("/v1/completions", &body).ok();
        assert_eq!(answer["usage"]["completion_tokens"], 4 * max_tokens);
        let choices = answer["choices"].as_array().expect("choices");
        assert_eq!(choices.len(), 4);
        for choice in choices {
            let log_probs = &choice["logprobs"];
            let n = log_probs["tokens"].as_array().expect("tokens").len();
            for key in ["token_logprobs", "top_logprobs", "text_offset", "behavior_logprobs"] {
                assert_eq!(log_probs[key].as_array().expect(key).len(), n, "{key}");
            }
            assert_eq!(numbers(&log_probs["behavior_logprobs"]).iter().flatten().count() as i64, max_tokens);
            assert_eq!(numbers(&log_probs["token_logprobs"]).iter().filter(|lp| lp.is_none()).count(), 1);
            let text: Vec<char> = choice["text"].as_str().expect("text").chars().collect();
            for i in 0..n {
                let (token, at) = (&log_probs["tokens"][i], log_probs["text_offset"][i].as_u64().expect("an offset"));
                let token: Vec<char> = token.as_str().expect("a token").chars().collect();
                if token.iter().all(char::is_ascii_alphabetic) {
                    assert_eq!(text[at as usize..][..token.len()], token, "token {i}");
                }
            }
        }
    }
}

#[test]
fn a_stream_echoes_the_log_probs_of_the_whole_answer() {
    let daemon = TestDaemon::start();
    for max_tokens in [0, 4] {
        let mut body = json!({"prompt": ["the ocean", "a bear"], "max_tokens": max_tokens, "echo": true, "logprobs": 2,
            "seed": 3, "temperature": 0, "ignore_eos": true});
        let whole = daemon.post("/v1/completions", &body).ok();
        body["stream"] = true.into();
        let events = daemon.stream("/v1/completions", &body).events();
        for choice in whole["choices"].as_array().expect("choices") {
            let of_choice = events.iter().map(|event| &event["choices"][0]).filter(|c| c["index"] == choice["index"]);
            let (mut text, mut tokens, mut offsets) = (String::new(), Vec::new(), Vec::new());
            for piece in of_choice {
                text.push_str(piece["text"].as_str().expect("text"));
                tokens.extend(piece["logprobs"]["tokens"].as_array().cloned().unwrap_or_default());
                offsets.extend(piece["logprobs"]["text_offset"].as_array().cloned().unwrap_or_default());
            }
            assert_eq!(choice["text"], text);
            assert_eq!(choice["logprobs"]["tokens"], json!(tokens));
            assert_eq!(choice["logprobs"]["text_offset"], json!(offsets));
        }
    }
}

/// Goal: echoed log-probs, tens of megabytes at worst, are made as they are read, so that nobody else waits for them. Method: choices
/// whose events are larger than what is gathered into a frame, and the frames of their stream, one a chunk.
#[test]
fn a_stream_echoes_one_choice_at_a_time() {
    let daemon = TestDaemon::start();
    let body = json!({"prompt": vec![9; 200], "max_tokens": 1, "echo": true, "logprobs": 20, "n": 4, "stream": true});
    let headers = [("content-type", "application/json")];
    let mut socket = client::connect(daemon.address());
    let request = client::request("POST", "/v1/completions", &headers, body.to_string().as_bytes());
    socket.write_all(&request).expect("sent");
    let mut reader = BufReader::new(socket);
    assert_eq!(client::read_head(&mut reader).0, 200);
    let frames = std::iter::from_fn(|| client::read_chunk(&mut reader));
    let n_large = |frame: Vec<u8>| {
        let text = String::from_utf8(frame).expect("whole events");
        text.split("\n\n").filter(|event| event.len() > 16 << 10).count()
    };
    let n_large: Vec<usize> = frames.map(n_large).filter(|n| *n > 0).collect();
    assert_eq!(n_large, [1, 1, 1, 1]);
}

#[test]
fn prompt_log_probs_have_the_shape_of_vllm() {
    let daemon = TestDaemon::start();
    let completion = json!({"prompt": "the ocean", "max_tokens": 2, "prompt_logprobs": 3, "return_token_ids": true});
    let answer = daemon.post("/v1/completions", &completion).ok();
    let (list, ids) = (&answer["choices"][0]["prompt_logprobs"], &answer["choices"][0]["prompt_token_ids"]);
    check_prompt_log_probs(list, ids, 3);
    assert!(answer["choices"][0]["logprobs"].is_null(), "nobody asked about the response");
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "prompt_logprobs": 0,
        "return_token_ids": true, "n": 2});
    let answer = daemon.post("/v1/chat/completions", &chat).ok();
    check_prompt_log_probs(&answer["prompt_logprobs"], &answer["prompt_token_ids"], 0);
    let alone = json!({"prompt": "the ocean", "max_tokens": 0, "prompt_logprobs": 0, "return_token_ids": true});
    let alone = daemon.post("/v1/completions", &alone).ok()["choices"][0].clone();
    check_prompt_log_probs(&alone["prompt_logprobs"], &alone["prompt_token_ids"], 0);
    assert_eq!((&alone["text"], &alone["finish_reason"]), (&json!(""), &json!("length")));
}

#[track_caller]
fn check_prompt_log_probs(list: &Value, ids: &Value, k: usize) {
    let (list, ids) = (list.as_array().expect("a list"), ids.as_array().expect("ids"));
    assert_eq!(list.len(), ids.len());
    assert!(list[0].is_null());
    for (entry, id) in list.iter().zip(ids).skip(1) {
        let own = &entry[id.to_string()];
        assert!(own["logprob"].as_f64().is_some_and(|lp| lp < 0.0) && own["decoded_token"].is_string(), "{entry}");
        let n = entry.as_object().expect("an object").len();
        let own_rank = own["rank"].as_u64().expect("a rank") as usize;
        assert_eq!(n, if own_rank <= k { k } else { k + 1 }, "{entry}");
    }
}

/// Goal: a scored prompt is no exchange: it is neither logged nor drawn from. Method: the log after one of each.
#[test]
fn scored_prompts_are_not_logged() {
    let daemon = TestDaemon::start();
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 0, "echo": true, "logprobs": 1})).ok();
    let kept = daemon.post("/v1/completions", &json!({"prompt": "the ocean", "max_tokens": 1})).ok();
    daemon.wait_for("the log commits", |d| !d.get("/v1/rollouts").ok()["data"].as_array().expect("rows").is_empty());
    let page = daemon.get("/v1/rollouts?limit=10").ok();
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(page["data"][0]["id"], kept["id"]);
}

#[test]
fn answers_that_would_be_too_large_are_refused() {
    let daemon = TestDaemon::start();
    let prompts = vec![vec![9; 200]; 16];
    let body = json!({"prompt": prompts, "max_tokens": 1, "echo": true, "logprobs": 20, "n": 64});
    assert_eq!(daemon.post("/v1/completions", &body).error(400)["param"], "prompt");
    let body = json!({"prompt": "a", "prompt_logprobs": 2, "stream": true});
    assert_eq!(daemon.post("/v1/completions", &body).error(400)["param"], "prompt_logprobs");
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
}
