//! `/v1/models` and the `model` field: every name that is listed answers, or says what it wants first.

use serde_json::{Value, json};

use crate::harness::{TestDaemon, model, versions::publish_versions};

fn listed(daemon: &TestDaemon) -> Vec<Value> {
    daemon.get("/v1/models").ok()["data"].as_array().expect("models").clone()
}

fn names(models: &[Value]) -> Vec<&str> {
    models.iter().map(|model| model["id"].as_str().expect("an id")).collect()
}

fn complete(daemon: &TestDaemon, model: &str) -> crate::harness::client::Reply {
    daemon.post("/v1/completions", &json!({"model": model, "prompt": "a", "max_tokens": 1}))
}

#[test]
fn every_listed_name_is_found_and_answers() {
    let daemon = TestDaemon::builder().set("policy.served_name=gpt-mine").start();
    let models = listed(&daemon);
    assert_eq!(names(&models), ["gpt-mine", "policy", "policy@0", "sft"], "nobody judges a model that is not ours");
    for entry in &models {
        let id = entry["id"].as_str().expect("an id");
        assert_eq!(&daemon.get(&format!("/v1/models/{id}")).ok(), entry);
        assert_eq!((&entry["max_model_len"], &entry["version"]), (&json!(model::WINDOW), &json!(0)), "{entry}");
        assert_eq!(
            (&entry["object"], &entry["state"], &entry["resident"]),
            (&json!("model"), &json!("live"), &json!(true))
        );
        assert_eq!(complete(&daemon, id).ok()["model"], *id);
    }
    complete(&daemon, "").ok();
    for unknown in ["gpt-4", "reward", "policy@1", "policy/0"] {
        assert_eq!(daemon.get(&format!("/v1/models/{unknown}")).error(404)["code"], "model_not_found", "{unknown}");
    }
    let judge = complete(&daemon, "reward").error(404);
    assert_eq!((&judge["code"], &judge["param"]), (&json!("model_not_found"), &json!("model")));
    assert!(judge["message"].as_str().expect("words").contains("judges and does not generate"), "{judge}");
}

/// Goal: a version that is kept but not in memory is told from one that does not exist, and can be brought back. Method:
/// three versions on disk of which the last serves; ask for the middle one, activate it, ask again.
#[test]
fn a_retained_version_says_how_it_is_brought_back() {
    let folder = tempfile::tempdir().expect("a folder");
    publish_versions(folder.path(), 2);
    let daemon = TestDaemon::builder().start_in(folder.path());
    let models = listed(&daemon);
    assert_eq!(names(&models), ["policy", "policy@2", "policy@1", "policy@0", "sft"]);
    let seen: Vec<_> =
        models[..3].iter().map(|m| (m["version"].clone(), m["state"].clone(), m["resident"].clone())).collect();
    let live = (json!(2), json!("live"), json!(true));
    assert_eq!(seen, [live.clone(), live, (json!(1), json!("retained"), json!(false))]);
    assert_eq!(models[1]["parent"], "policy@1");
    let error = complete(&daemon, "policy@1").error(409);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_loaded"), &json!("model")), "{error}");
    let echoed = json!({"model": "policy@1", "prompt": "a", "max_tokens": 0, "echo": true});
    daemon.post("/v1/completions", &echoed).error(409);
    assert_eq!(complete(&daemon, "policy@9").error(404)["code"], "model_not_found");
    daemon.post("/v1/policies/1/activate", &json!({})).ok();
    assert_eq!(complete(&daemon, "policy@1").ok()["system_fingerprint"], "policy@1");
    assert_eq!(complete(&daemon, "sft").ok()["system_fingerprint"], "policy@0");
}

/// Goal: going back to what is in memory takes no look at its file, and what is not in memory is never served from a damaged one.
/// Method: with version 2 live, damage the files of versions 0, which is in memory, and 1, which is not; activate both.
#[test]
fn what_is_in_memory_serves_again_whatever_became_of_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    publish_versions(folder.path(), 2);
    let daemon = TestDaemon::builder().start_in(folder.path());
    for version in ["policy-0.gguf", "policy-1.gguf"] {
        let found = find(folder.path(), version).expect("the version's file");
        let mut bytes = std::fs::read(&found).expect("readable");
        *bytes.last_mut().expect("not empty") ^= 1;
        // In place of the old one, which may be mapped.
        std::fs::remove_file(&found).and_then(|()| std::fs::write(&found, bytes)).expect("written");
    }
    let error = daemon.post("/v1/policies/1/activate", &json!({})).error(409);
    assert!(error["message"].as_str().is_some_and(|why| why.contains("damaged")), "{error}");
    assert_eq!(complete(&daemon, "policy").ok()["system_fingerprint"], "policy@2");
    daemon.post("/v1/policies/0/activate", &json!({})).ok();
    assert_eq!(complete(&daemon, "policy").ok()["system_fingerprint"], "policy@0");
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| match entry.path() {
        path if path.is_dir() => find(&path, name),
        path => path.ends_with(name).then_some(path),
    })
}
