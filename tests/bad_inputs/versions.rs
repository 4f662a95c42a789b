//! 35 and 36 while a daemon runs: versions whose files are not what they were, and activations that cross.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::bench::{Bench, COMPLETIONS, Case};

pub(super) const CASES: &[Case] = &[
    (35, "a version whose file is gone, is another, or is none", |b| {
        assert_eq!(live(b), 3);
        for (name, spoil) in SPOILS {
            let path = weights(b, 1);
            let whole = fs::read(&path).expect("version 1");
            fs::remove_file(&path).expect("it may go");
            spoil(&path, &whole);
            let error = activate(b, 1, &json!({})).error(409);
            assert_eq!(error["code"], "conflict", "{name}: {error}");
            assert!(!error["message"].as_str().is_some_and(|text| text.contains('/')), "paths stay inside: {error}");
            assert_eq!(live(b), 3, "{name}");
            remove(&path);
            fs::write(&path, &whole).expect("put back");
        }
        activate(b, 1, &json!({})).ok();
        assert_eq!(live(b), 1);
    }),
    (35, "a version that is no number, or no version", |b| {
        for version in
            ["9", "-1", "x", "1.0", "policy@", "policy@9", "18446744073709551616", "..", "%2e%2e%2fetc", "1%00"]
        {
            b.send("POST", &format!("/v1/policies/{version}/activate"), &[], b"").error(404);
        }
        b.refuses("/v1/policies/1/activate", "expected_live", r#"{"expected_live":-1}"#);
        b.refuses("/v1/policies/1/activate", "expected_live", r#"{"expected_live":"1"}"#);
        b.refuses("/v1/policies/1/activate", None, "[1]");
        b.send("POST", "/v1/policies/1/activate", &[("content-type", "text/plain")], b"{}").error(415);
    }),
    (36, "activations at once: each is whole, one is last", |b| {
        std::thread::scope(|scope| {
            for version in [0, 2, 3, 0, 2, 3] {
                scope.spawn(move || activate(b, version, &json!({})).ok());
            }
        });
        let answer = b.accepts(COMPLETIONS, r#"{"prompt":"a","max_tokens":1}"#);
        assert_eq!(answer["system_fingerprint"], format!("policy@{}", live(b)), "log and engine agree");
    }),
    (36, "of two that expect the same version, one comes too late", |b| {
        let now = live(b);
        let wanted = [1, 2, 3].into_iter().filter(|version| *version != now).take(2).collect::<Vec<u64>>();
        let statuses = std::thread::scope(|scope| {
            let asks = wanted
                .iter()
                .map(|version| scope.spawn(move || activate(b, *version, &json!({"expected_live": now})).status));
            asks.collect::<Vec<_>>().into_iter().map(|ask| ask.join().expect("answered")).collect::<Vec<u16>>()
        });
        let mut sorted = statuses;
        sorted.sort_unstable();
        assert_eq!(sorted, [200, 409]);
        let reply = activate(b, 0, &json!({"expected_live": 99}));
        assert_eq!(
            (reply.error(409)["code"].as_str(), reply.header("x-should-retry")),
            (Some("conflict"), Some("false"))
        );
    }),
];

/// Has version 3 live and version 1 on the disk only, as the table finds them at first: what is in memory is read from no file.
pub(super) fn begin(b: &Bench) {
    [2, 3].iter().for_each(|version| drop(activate(b, *version, &json!({})).ok()));
}

/// What may have become of a file; it gets the path and what lay there.
type Spoil = fn(&PathBuf, &[u8]);

const SPOILS: [(&str, Spoil); 8] = [
    ("missing", |_, _| {}),
    ("empty", |path, _| fs::write(path, b"").expect("written")),
    ("truncated", |path, whole| fs::write(path, &whole[..whole.len() / 2]).expect("written")),
    ("longer", |path, whole| fs::write(path, [whole, b"more"].concat()).expect("written")),
    ("one bit other", |path, whole| {
        let mut other = whole.to_vec();
        *other.last_mut().expect("not empty") ^= 1;
        fs::write(path, other).expect("written");
    }),
    ("a folder", |path, _| fs::create_dir(path).expect("made")),
    ("a FIFO", |path, _| {
        let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success());
    }),
    ("a link out of the folder", |path, whole| {
        let outside = path.with_extension("outside");
        fs::write(&outside, [whole, b"more"].concat()).expect("written");
        std::os::unix::fs::symlink(outside, path).expect("linked");
    }),
];

fn weights(b: &Bench, version: u64) -> PathBuf {
    b.data().join(format!("versions/policy-{version}.gguf"))
}

fn remove(path: &PathBuf) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
}

fn live(b: &Bench) -> u64 {
    b.get("/v1/policies").ok()["live"].as_u64().expect("a number")
}

fn activate(b: &Bench, version: u64, body: &Value) -> crate::harness::client::Reply {
    b.post(&format!("/v1/policies/{version}/activate"), body.to_string())
}
