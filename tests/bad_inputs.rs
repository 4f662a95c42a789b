//! Forty bad or odd inputs, by number; `README.md` of this folder lists them. Each is a case: what the daemon answers to
//! it (an error that names the field and has OpenAI's shape, or an accept that HTTP's users are told of), after which the
//! next good request passes. After the last, the daemon holds as much memory and as many files as before.
//!
//! The daemon is the real binary, because memory is a process's. A table is walked on one daemon from end to end, so that
//! what one input leaves behind meets the next; faults are gathered, so that one walk tells all of them.

mod bench;
mod bodies;
mod connections;
mod conversations;
mod fields;
mod files;
mod keys;
mod scores;
mod versions;

use bench::{Bench, Case};
use serde_json::json;

use crate::harness::client::Stream;

/// What a walk may add to the resident set, bytes: a heap that has grown keeps some pages, and threads keep their arenas.
/// A leak of what a walk sends (some forty megabytes of bodies, a thousand connections) would show.
const GROWTH_MAX: u64 = 24 << 20;

/// Every number, and the table that has it.
const TABLES: [&[Case]; 8] = [
    bodies::CASES,
    fields::CASES,
    conversations::CASES,
    connections::CASES,
    scores::CASES,
    files::CASES,
    versions::CASES,
    keys::CASES,
];

#[test]
fn all_forty_are_there() {
    let mut numbers: Vec<u8> = TABLES.iter().flat_map(|table| table.iter().map(|case| case.0)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (1..=40).collect::<Vec<u8>>());
}

/// Goal: no body, field or header harms the daemon, and none leaks. Method: everything that a daemon in its usual settings can be
/// sent.
#[test]
fn bad_requests_are_refused_and_leave_nothing_behind() {
    let bench = Bench::judging(0.5);
    let tables = [bodies::CASES, fields::CASES, conversations::CASES, connections::CASES];
    check_memory(&bench, || tables.iter().for_each(|table| bench.walk(table)));
    bench.check_log();
}

/// Two walks over the same inputs: the heap is warm after the first, and the second must not add to it.
#[track_caller]
fn check_memory(bench: &Bench, walk: impl Fn()) {
    let memory = [(); 2].map(|()| {
        walk();
        bench.settle();
        bench.memory_bytes()
    });
    assert!(memory[1] < memory[0] + GROWTH_MAX, "the second walk added memory: {memory:?} bytes");
}

#[test]
fn scores_that_are_no_numbers_leave_the_daemon_standing() {
    let bench = Bench::judging(f32::INFINITY);
    check_memory(&bench, || bench.walk(scores::CASES));
    bench.check_log();
}

#[test]
fn bad_model_files_are_refused_before_anything_is_served() {
    files::CASES.iter().for_each(|case| (case.2)(&Bench::plain()));
}

#[test]
fn bad_activations_leave_the_live_version_serving() {
    let bench = Bench::with_versions(3);
    check_memory(&bench, || {
        versions::begin(&bench);
        bench.walk(versions::CASES);
    });
    bench.check_log();
}

/// 36, of which the daemon ends: an activation while it drains.
#[test]
fn an_activation_during_the_drain_is_refused() {
    let bench = Bench::with_versions(2);
    let long = json!({"prompt": "the ocean", "max_tokens": 240, "ignore_eos": true, "n": 100, "stream": true});
    let mut stream = Stream::open(bench.process.address, bench::COMPLETIONS, &long);
    stream.next_data().expect("it streams");
    bench.process.signal(libc::SIGTERM);
    bench.wait_for("it drains", || bench.get("/readyz").status == 503);
    let reply = bench.post("/v1/policies/1/activate", "{}");
    assert_eq!(reply.error(503)["code"], "unavailable");
    assert!(reply.header("retry-after").is_some(), "{reply:?}");
    assert_eq!(reply.header("x-should-retry"), Some("false"), "OpenAI's clients would come back to a daemon that ends");
    let answer = bench.get("/v1/policies").ok();
    assert_eq!(answer["live"], 2);
    assert!(stream.events().iter().all(|event| event["system_fingerprint"] == "policy@2"), "what runs, ends");
    bench.check_log();
}

#[test]
fn bad_keys_open_nothing() {
    let bench = Bench::with_keys();
    check_memory(&bench, || bench.walk(keys::CASES));
    bench.check_log();
}
