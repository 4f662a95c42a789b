//! Many clients at once, good and bad ones, for a while: nothing but 200 and 429, nothing that grows, nothing that hangs.
//!
//! `make soak` runs the long form (10,000 requests); the suite a short one. Both with 64 clients, a queue of 32, 1,000
//! connections that say nothing and one client that never reads.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{
    client::{self, Stream, request},
    process::Process,
};

const CLIENTS: usize = 64;
const IDLE: usize = 1000;
/// What memory may grow by over the last half of a long run.
const GROWTH_MAX: f64 = 0.02;
/// In a short run caches still fill (SQLite's pages, 2 MiB a connection).
const REQUESTS_LONG: usize = 10_000;
const FILLING_KIB: u64 = 4096;

fn post(address: SocketAddr, body: &Value) -> client::Reply {
    let headers = [("content-type", "application/json")];
    client::raw(address, &request("POST", "/v1/completions", &headers, body.to_string().as_bytes()))
}

/// Every kind of request that a client may send in good faith.
fn body(i: usize) -> Value {
    let prompt = ["The sky is", "a", "Write three adjectives to describe the ocean.", "one two three"][i % 4];
    let mut body = json!({"prompt": prompt, "max_tokens": 4 + i % 9, "seed": i, "n": 1 + i % 2});
    match i % 5 {
        1 => body["logprobs"] = json!(3),
        2 => body["stream"] = json!(true),
        3 => body["echo"] = json!(true),
        _ => {}
    }
    body
}

/// Whether the daemon has neither said anything nor hung up.
fn is_open(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    // An end is `Ok(0)`.
    socket.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Files that this process and its children may have open.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a struct of this frame, which both calls only read or fill.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max.min(8192);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

#[test]
fn many_clients_get_answers_or_a_429_and_memory_stays_flat() {
    raise_file_limit();
    let n_requests = std::env::var("HONED_SOAK").map_or(2000, |n| n.parse().expect("HONED_SOAK is a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let sets = [
        "ppo.enabled=false",
        "policy.max_queue=32",
        "policy.parallel=4",
        "daemon.connections_max=4096",
        "daemon.header_timeout_s=3600",
    ];
    let mut daemon = Process::serve(folder.path(), &sets);
    let address = daemon.address;
    client::until_ready(address);
    let idle: Vec<TcpStream> = (0..IDLE).map(|_| client::connect(address)).collect();
    let mut deaf = client::connect(address);
    let endless =
        json!({"prompt": "the", "max_tokens": 100, "n": 8, "stream": true, "ignore_eos": true, "logprobs": 5});
    let headers = [("content-type", "application/json")];
    std::io::Write::write_all(&mut deaf, &request("POST", "/v1/completions", &headers, endless.to_string().as_bytes()))
        .expect("the daemon reads");

    let (next, statuses) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<u16, usize>::new()));
    let half = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n_requests {
                        return;
                    }
                    if i == n_requests / 2 {
                        *half.lock().expect("unpoisoned") = Some(daemon.rss_kib());
                    }
                    let reply = post(address, &body(i));
                    *statuses.lock().expect("unpoisoned").entry(reply.status).or_default() += 1;
                    if reply.status == 429 {
                        assert!(reply.header("retry-after").is_some(), "a 429 says when to come back");
                        std::thread::sleep(Duration::from_millis(20));
                    } else {
                        assert_eq!(reply.status, 200, "{}", reply.text());
                    }
                }
            });
        }
    });
    let (half, end) = (half.into_inner().expect("unpoisoned").expect("half of them came by"), daemon.rss_kib());
    let statuses = statuses.into_inner().expect("unpoisoned");
    println!("{n_requests} requests, by status: {statuses:?}; memory {half} KiB after half of them, {end} at the end");
    assert_eq!(statuses.values().sum::<usize>(), n_requests);
    assert!(statuses[&200] > n_requests / 20, "{statuses:?}");
    let filling = if n_requests < REQUESTS_LONG { FILLING_KIB } else { 0 };
    let limit = half + filling + (half as f64 * GROWTH_MAX) as u64;
    assert!(end <= limit, "memory grew from {half} to {end} KiB");
    assert!(idle.iter().all(is_open), "a connection within its time was closed");
    drop((idle, deaf));
    assert_eq!(post(address, &body(0)).status, 200);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
}

/// Goal: a shutdown under load cuts nobody. Method: more streams than slots; SIGTERM once all are admitted; every one must end
/// as it was asked to, a newcomer must be told to come back, and the process must end well within its deadline.
#[test]
fn sigterm_under_load_finishes_what_was_admitted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut daemon = Process::serve(folder.path(), &["ppo.enabled=false", "policy.parallel=4", "daemon.drain_s=30"]);
    let address = daemon.address;
    client::until_ready(address);
    let long =
        |i: u64| json!({"prompt": "the", "max_tokens": 200, "n": 40, "ignore_eos": true, "stream": true, "seed": i});
    let streams: Vec<Stream> = (0..12).map(|i| Stream::open(address, "/v1/completions", &long(i))).collect();
    daemon.signal(libc::SIGTERM);
    let asked = Instant::now();
    let told = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        post(address, &json!({"prompt": "a", "max_tokens": 1}))
    });
    let ends: Vec<Value> = std::thread::scope(|scope| {
        let all: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| stream.events())).collect();
        all.into_iter().map(|one| one.join().expect("no panic").pop().expect("events")).collect()
    });
    for end in &ends {
        assert_eq!(end["choices"][0]["finish_reason"], "length", "{end}");
    }
    let reply = told.join().expect("no panic");
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
    assert!(daemon.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
}
