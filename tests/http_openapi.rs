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
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "secret\n").expect("written");
    let daemon = TestDaemon::builder().set(format!("daemon.api_keys_file={}", keys.display())).start();
    let page = daemon.get("/docs");
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(text.contains("/openapi.json"));
    for foreign in ["http://", "https://", "src=", "//cdn"] {
        assert!(!text.contains(foreign), "{foreign}");
    }
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    daemon.get("/openapi.json").ok();
    daemon.get("/v1/models").error(401);
}
