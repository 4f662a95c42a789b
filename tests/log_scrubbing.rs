//! `ppo.log.scrub_pii`: what looks like personal data is in no file of the data folder, and what held it never trains.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::harness::{TestDaemon, process};

const EMAIL: &str = "joe.bloggs@example.org";
const CARD: &str = "4111 1111 1111 1111";
const PHONE: &str = "+49 30 901820";

/// Files below a folder in which a text is found.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if fs::read(&path).expect("readable").windows(text.len()).any(|window| window == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Token ids as the log writes them: four bytes each.
fn as_written(ids: &Value) -> Vec<u8> {
    let ids = ids.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32);
    ids.flat_map(u32::to_le_bytes).collect()
}

fn rows(daemon: &TestDaemon) -> Vec<Value> {
    daemon.get("/v1/rollouts").ok()["data"].as_array().expect("rows").clone()
}

fn complete(daemon: &TestDaemon, prompt: &str, rest: &Value) -> Value {
    let mut body = json!({"prompt": prompt, "max_tokens": 3, "ignore_eos": true});
    body.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
    daemon.post("/v1/completions", &body).ok()
}

/// Goal: nothing of it reaches the disk, in letters or in token ids, and what was not touched still trains. Method: addresses in
/// prompts, chats, stop texts and feedback, beside a clean exchange; then every file of the folder.
#[test]
fn no_file_holds_an_address_and_its_exchange_does_not_train() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let daemon = TestDaemon::builder().set("ppo.log.scrub_pii=redact").start_in(&data);
    let clean = complete(&daemon, "the ocean is deep", &json!({"stop": [EMAIL], "user": "bob"}));
    complete(&daemon, &format!("a unicorn wrote to {EMAIL} about"), &json!({"user": "ann"}));
    let messages = json!([{"role": "user", "content": format!("call {PHONE} now")}]);
    daemon.post("/v1/chat/completions", &json!({"messages": messages, "max_tokens": 2, "user": "bob"})).ok();
    let words = json!({"id": clean["id"], "label": "up", "comment": format!("send it to {EMAIL}"), "edit": CARD});
    daemon.post("/v1/feedback", &words).ok();
    daemon.wait_for("all are committed", |daemon| rows(daemon).len() == 3);
    let all = rows(&daemon);
    let of =
        |n: usize| (all[n]["state"].clone(), all[n]["reason"].clone(), all[n]["token_ids"].as_array().map(Vec::len));
    assert_eq!(of(0), (json!("generated"), Value::Null, Some(3)));
    assert_eq!(of(1), (json!("dropped"), json!("pii"), Some(0)));
    assert_eq!(of(2), (json!("dropped"), json!("pii"), Some(0)));
    assert_eq!(all[1]["prompt_token_ids"], json!([]));
    let prompt = all[1]["redacted"]["prompt"].as_str().expect("a text");
    assert!(prompt.ends_with("a unicorn wrote to [EMAIL] about"), "{prompt}");
    assert!(all[2]["redacted"]["prompt"].as_str().expect("a text").contains("call [PHONE] now"), "{}", all[2]);
    assert_eq!(all[0]["redacted"], Value::Null);
    let feedback = &all[0]["feedback"][0];
    assert_eq!((&feedback["comment"], &feedback["edit"]), (&json!("send it to [EMAIL]"), &json!("[CARD]")));
    assert_eq!(daemon.metric("honed_rollouts_dropped_total{reason=\"pii\"}"), 2.0);
    let spelt =
        as_written(&daemon.post("/tokenize", &json!({"prompt": EMAIL, "add_special_tokens": false})).ok()["tokens"]);
    daemon.stop();
    for text in [EMAIL, CARD, PHONE, "joe.bloggs"] {
        assert_eq!(holding(&data, text), Vec::<String>::new(), "{text}");
    }
    let database = fs::read(data.join("rollouts.sqlite")).expect("the log");
    assert!(!database.windows(spelt.len()).any(|window| window == spelt), "its token ids spell it");
    let stats = Command::new(process::binary()).args(["rollouts", "stats", "--json", "--data-dir"]).arg(&data).output();
    let stats: Value = serde_json::from_slice(&stats.expect("the binary runs").stdout).expect("JSON");
    assert_eq!(stats["dropped"]["pii"], 2);

    // Whoever is forgotten takes the redacted text along.
    assert!(!holding(&data, "unicorn").is_empty());
    let forgotten = Command::new(process::binary())
        .args(["rollouts", "forget", "--user", "ann", "--data-dir"])
        .arg(&data)
        .status()
        .expect("the binary runs");
    assert!(forgotten.success());
    assert_eq!(holding(&data, "unicorn"), Vec::<String>::new());
}

/// Goal: the search above would find it. Method: the same words with the knob as it is by default.
#[test]
fn without_the_knob_words_are_written_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let daemon = TestDaemon::builder().start_in(&data);
    let answer = complete(&daemon, &format!("write to {EMAIL} about"), &json!({}));
    daemon.post("/v1/feedback", &json!({"id": answer["id"], "comment": EMAIL})).ok();
    daemon.wait_for("it is committed", |daemon| rows(daemon).len() == 1);
    assert_eq!(rows(&daemon)[0]["state"], "generated");
    daemon.stop();
    assert!(!holding(&data, EMAIL).is_empty());
}
