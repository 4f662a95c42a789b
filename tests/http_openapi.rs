//! `/openapi.json` and `/docs`: what they promise is there, without a key and without anybody else's server.

use serde_json::{Value, json};

use crate::harness::TestDaemon;

/// Goal: no path or method of the document is made up. Method: each is called with an empty body; whatever comes back, it is
/// a status that the document lists, in a type that it lists.
#[test]
fn every_described_route_answers_as_described() {
    let daemon = TestDaemon::start();
    let document = daemon.get("/openapi.json").ok();
    assert_eq!(document["openapi"].as_str().map(|version| version.starts_with("3.1")), Some(true));
    let mut n_routes = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let path = path.replace("{id}", "policy").replace("{version}", "0");
            let json = [("content-type", "application/json")];
            let reply = daemon.send(&method.to_uppercase(), &path, &json, b"{}");
            let described = &operation["responses"][reply.status.to_string()];
            assert!(described.is_object(), "{method} {path} answered {}", reply.status);
            let media_type = reply.header("content-type").and_then(|value| value.split(';').next()).expect("a type");
            assert!(described["content"].get(media_type).is_some(), "{method} {path} answered {media_type}");
            n_routes += 1;
        }
    }
    assert!(n_routes > 30, "{n_routes}");
}

/// Goal: the examples that people copy work. Method: send each.
#[test]
fn examples_of_the_document_are_accepted() {
    let daemon = TestDaemon::builder().set("policy.model=").start();
    let document = daemon.get("/openapi.json").ok();
    let mut n_examples = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let reference = &item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let Some(name) = reference.as_str().and_then(|path| path.rsplit('/').next()) else { continue };
        let mut example: Value = document["components"]["schemas"][name]["example"].clone();
        if path == "/v1/feedback" {
            let answer = daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
            example["id"] = answer["id"].clone();
        }
        if path == "/v1/policies" {
            // Where no folder is named nothing is loaded; the error says so, and the example's shape was understood.
            assert_eq!(daemon.post(path, &example).error(403)["code"], "forbidden");
        } else if example.is_object() {
            daemon.post(path, &example).ok();
            n_examples += 1;
        }
    }
    assert!(n_examples >= 10, "{n_examples}");
}

#[test]
fn the_page_needs_nobody_else() {
    let daemon = TestDaemon::builder().keys("daemon.api_keys_file", "secret\n").start();
    let page = daemon.get("/docs");
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(text.contains("/openapi.json"));
    for foreign in ["http://", "https://", "src=", "//cdn"] {
        assert!(!text.contains(foreign), "{foreign}");
    }
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    // What it says of keys is what holds here: that they are needed.
    let document = daemon.get("/openapi.json").ok();
    for (path, method) in [("/v1/models", "get"), ("/v1/policies", "get")] {
        assert_eq!(document["paths"][path][method]["security"], json!([{"key": []}]), "{path}");
        daemon.get(path).error(401);
    }
    let open = TestDaemon::start().get("/openapi.json").ok();
    assert_eq!(open["paths"]["/v1/models"]["get"]["security"], json!([{"key": []}, {}]));
}

/// Goal: a program can tell a request that the document forbids from one that no document can foresee. Method: one of each
/// kind, on every route that has it.
#[test]
fn codes_tell_what_the_document_forbids_from_what_it_cannot_foresee() {
    let daemon = TestDaemon::builder().set("reward.model=").set("policy.model=").start();
    let user = json!([{"role": "user", "content": "a"}]);
    let cases = [
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "n": 0})),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "stream_options": {}})),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "guided_regex": "a", "guided_choice": ["a"]})),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "guided_regex": "a", "min_tokens": 1})),
        ("/v1/completions", "fields_disagree", json!({"prompt": "a", "n": 2, "best_of": 1})),
        ("/v1/completions", "fields_disagree", json!({"prompt": "a", "min_tokens": 9, "max_tokens": 8})),
        ("/v1/completions", "fields_disagree", json!({"prompt": vec!["a"; 1024], "n": 128})),
        ("/v1/completions", "unknown_token", json!({"prompt": [2_000_000_000]})),
        ("/v1/completions", "unknown_token", json!({"prompt": "a", "stop_token_ids": [2_000_000_000]})),
        ("/v1/completions", "unknown_token", json!({"prompt": "a", "logit_bias": {"200000000": 1}})),
        ("/v1/completions", "invalid_grammar", json!({"prompt": "a", "guided_json": "[]"})),
        ("/v1/completions", "invalid_grammar", json!({"prompt": "a", "guided_regex": "("})),
        ("/v1/completions", "context_length_exceeded", json!({"prompt": "a", "max_tokens": 1_000_000})),
        ("/detokenize", "unknown_token", json!({"tokens": [2_000_000_000]})),
        ("/classify", "unknown_token", json!({"input": [2_000_000_000]})),
        ("/classify", "invalid_messages", json!({"messages": user})),
        ("/classify", "invalid_value", json!({"messages": user, "input": "a"})),
        ("/classify", "context_length_exceeded", json!({"input": vec![1; 10_000]})),
        ("/v1/rewards", "invalid_messages", json!({"input": {"messages": user}})),
        ("/score", "fields_disagree", json!({"text_1": ["a", "b"], "text_2": "a"})),
        ("/get_reward", "fields_disagree", json!({"query": "a", "prompts": "a"})),
        ("/v1/rewards/model", "forbidden", json!({"path": "a.gguf"})),
    ];
    for (path, code, body) in cases {
        let status = if code == "forbidden" { 403 } else { 400 };
        assert_eq!(daemon.post(path, &body).error(status)["code"], code, "{path} {body}");
    }
}
