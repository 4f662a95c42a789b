//! `/tokenize`, `/detokenize`, `/tokenizer_info` as lm-eval's remote tokenizer and vLLM's clients use them.

use candle_core::quantized::gguf_file;
use policy::checkpoint::Checkpoint;
use serde_json::{Value, json};

use crate::harness::{TestDaemon, model};

fn ids(daemon: &TestDaemon, body: &Value) -> Vec<u64> {
    let answer = daemon.post("/tokenize", body).ok();
    let ids: Vec<u64> =
        answer["tokens"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect();
    assert_eq!(answer["count"], ids.len(), "{body}");
    assert_eq!(answer["max_model_len"], model::WINDOW, "{body}");
    ids
}

#[test]
fn tokens_survive_the_way_there_and_back() {
    let daemon = TestDaemon::start();
    for text in ["the ocean é 🌊 is\n vast", "a", "", "<|endoftext|>the<|user|>", "\u{0}"] {
        let tokens = ids(&daemon, &json!({"prompt": text}));
        let back = daemon.post("/detokenize", &json!({"tokens": tokens, "model": "policy"})).ok();
        assert_eq!((&back["prompt"], &back["content"]), (&json!(text), &json!(text)));
    }
}

/// Goal: lm-eval's remote tokenizer finds what it looks for. Method: its requests, field by field, and its way to the end
/// token's id, which is to tokenise the token's text.
#[test]
fn the_remote_tokenizer_of_lm_eval_works() {
    let daemon = TestDaemon::start();
    let info = daemon.get("/tokenizer_info").ok();
    let end = info["eos_token"].as_str().expect("a text");
    assert_eq!(
        ids(&daemon, &json!({"prompt": end, "add_special_tokens": false})),
        [info["eos_token_id"].as_u64().unwrap()]
    );
    assert!(info["chat_template"].as_str().is_some_and(|template| template.contains("<|assistant|>")));
    assert!(info["bos_token"].is_null() && info["pad_token"].is_null(), "present, and null: {info}");
    assert_eq!(info["vocab_size"].as_u64().map(|n| n > 256), Some(true));
}

/// Goal: a text is cut as generation cuts it once control tokens are not parsed. Method: both routes' ids for one text.
#[test]
fn unparsed_tokens_are_those_that_generation_sees() {
    let daemon = TestDaemon::start();
    let text = "the <|endoftext|> ocean";
    let plain = ids(&daemon, &json!({"prompt": text, "parse_special": false}));
    let parsed = ids(&daemon, &json!({"prompt": text}));
    let answer =
        daemon.post("/v1/completions", &json!({"prompt": text, "max_tokens": 1, "return_token_ids": true})).ok();
    assert_eq!(answer["choices"][0]["prompt_token_ids"], json!(plain));
    assert!(parsed.len() < plain.len() && parsed.contains(&0) && !plain.contains(&0), "{parsed:?} {plain:?}");
}

#[test]
fn texts_of_tokens_come_when_asked_for() {
    let daemon = TestDaemon::start();
    let body = json!({"messages": [{"role": "user", "content": "the ocean"}], "return_token_strs": true});
    let answer = daemon.post("/tokenize", &body).ok();
    let strings: Vec<&str> = answer["token_strs"].as_array().expect("texts").iter().filter_map(Value::as_str).collect();
    assert_eq!(strings.concat(), "<|user|>the ocean<|assistant|>");
    assert_eq!(answer["count"], strings.len());
    assert!(daemon.post("/tokenize", &json!({"prompt": "a"})).ok().get("token_strs").is_none());
}

#[test]
fn what_cannot_be_cut_is_refused_by_name() {
    let daemon = TestDaemon::start();
    let cases = [
        ("/tokenize", "prompt", json!({})),
        ("/tokenize", "prompt", json!({"prompt": ["a"]})),
        ("/tokenize", "messages", json!({"messages": []})),
        ("/tokenize", "return_token_strs", json!({"prompt": "a", "return_token_strs": 1})),
        ("/tokenize", "with_pieces", json!({"content": "a", "with_pieces": 1})),
        ("/detokenize", "tokens", json!({})),
        ("/detokenize", "tokens", json!({"tokens": [100_000]})),
        ("/detokenize", "tokens", json!({"tokens": ["1"]})),
        ("/detokenize", "tokens", json!({"tokens": vec![7; 200_000]})),
    ];
    for (path, param, body) in cases {
        assert_eq!(daemon.post(path, &body).error(400)["param"], param, "{path} {body:.100}");
    }
    let unknown = daemon.post("/tokenize", &json!({"prompt": "a", "model": "gpt-4"})).error(404);
    assert_eq!(unknown["code"], "model_not_found");
    for (path, body) in [("/tokenize", json!({"prompt": "a"})), ("/detokenize", json!({"tokens": [1]}))] {
        let mut body = body;
        for (model, expected) in [("policy@0", 200), ("sft", 200), ("policy@9", 404)] {
            body["model"] = json!(model);
            assert_eq!(daemon.post(path, &body).status, expected, "{path} {model}");
        }
    }
}

/// Goal: as much text as a body may hold is cut, in time that is no attack. Method: two million bytes of one letter and
/// of one character of four bytes, more than the window holds, because a document may be longer than it.
#[test]
fn a_whole_body_of_one_character_is_cut_in_time() {
    let daemon = TestDaemon::start();
    for unit in ["a", "🌊", " "] {
        let text = unit.repeat(2_000_000 / unit.len());
        let asked = std::time::Instant::now();
        let tokens = ids(&daemon, &json!({"prompt": text}));
        assert!(tokens.len() > model::WINDOW, "{unit:?}: {}", tokens.len());
        assert!(asked.elapsed().as_secs() < 20, "{unit:?} took {:?}", asked.elapsed());
    }
}

/// Goal: no text ends the process where llama.cpp cuts with `std::regex`, which takes stack for every character. Method: the
/// model under the name of such patterns; 100 KB of "!" on every route that makes tokens, and then more than any stack is
/// made for.
#[test]
fn long_runs_of_a_character_end_no_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("default.gguf");
    let mut checkpoint = Checkpoint::read(&model::file()).expect("the model");
    checkpoint.metadata.set("tokenizer.ggml.pre", gguf_file::Value::String("default".into()));
    checkpoint.write(&path).expect("written");
    let daemon = TestDaemon::builder().set(format!("policy.model={}", path.display())).start();
    let run = "!".repeat(100_000);
    assert!(!ids(&daemon, &json!({"prompt": run})).is_empty());
    ids(&daemon, &json!({"messages": [{"role": "user", "content": run}]}));
    let too_long = daemon.post("/v1/completions", &json!({"prompt": run, "max_tokens": 1})).error(400);
    assert_eq!((&too_long["code"], &too_long["param"]), (&json!("context_length_exceeded"), &json!("prompt")));
    let error = daemon.post("/tokenize", &json!({"prompt": "!".repeat(600_000)})).error(400);
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("prompt")));
    assert!(error["message"].as_str().is_some_and(|message| message.contains("at most 524288 characters")), "{error}");
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
}
