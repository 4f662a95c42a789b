//! What clients have computed on their texts beside the engine: how much of it there is at once, and whose it is.

use std::{
    io::BufReader,
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{
    TestDaemon,
    client::{self, Stream, request},
    judge::slow_judge,
    process::Process,
};

const JSON: (&str, &str) = ("content-type", "application/json");
const PATIENCE: Duration = Duration::from_secs(120);

fn send(address: SocketAddr, request: &[u8]) -> TcpStream {
    let mut socket = client::connect(address);
    socket.write_all(request).expect("sent");
    socket
}

/// Status of an answer of which nothing else is read.
fn status(socket: &TcpStream) -> u16 {
    client::read_head(&mut BufReader::with_capacity(64, socket)).0
}

/// Ends what runs beside a test, however the test does.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Goal: clients that have long texts cut and read nothing take a bounded part of memory, and the engine goes on beside them. Method:
/// more of them than there is room for, each about 40 MB of answer, beside a stream; how many are refused, what memory they take,
/// whether the stream moves; and the same number of answers once they have left, so that all is given back.
#[test]
fn answers_that_nobody_reads_are_bounded_and_given_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = Process::serve(folder.path(), &["ppo.enabled=false", "policy.parallel=4"]);
    let address = daemon.address;
    client::until_ready(address);
    let body =
        json!({"prompt": "\u{1f30a}".repeat(450_000), "with_pieces": true, "return_token_strs": true}).to_string();
    let huge = request("POST", "/tokenize", &[JSON], body.as_bytes());
    let ask = || send(address, &huge);
    let long = json!({"prompt": vec!["a"; 16], "max_tokens": 250, "n": 128, "ignore_eos": true, "stream": true});
    let (n_events, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = End(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let mut stream = Stream::open(address, "/v1/completions", &long);
                while !is_over.load(Ordering::Acquire) && stream.next_data().is_some() {
                    n_events.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
        let goes_on = || {
            let (began, before) = (Instant::now(), n_events.load(Ordering::Acquire));
            while n_events.load(Ordering::Acquire) < before + 100 {
                assert!(began.elapsed() < PATIENCE, "the stream stands still");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        goes_on();
        let before = daemon.rss_kib();
        let sockets: Vec<TcpStream> = (0..24).map(|_| ask()).collect();
        let statuses: Vec<u16> = sockets.iter().map(status).collect();
        goes_on();
        let grown = daemon.rss_kib().saturating_sub(before) / 1024;
        let count = |of: u16| statuses.iter().filter(|&&status| status == of).count();
        assert!(count(200) >= 8 && count(429) >= 4 && count(200) + count(429) == 24, "{statuses:?}");
        assert!(grown < 400, "{grown} MiB");
        drop(sockets);
        // The same number has room again; a client that has left is seen to a moment later.
        let began = Instant::now();
        while status(&ask()) != 200 {
            assert!(began.elapsed() < PATIENCE, "nothing was given back");
        }
        let again: Vec<TcpStream> = (0..count(200)).map(|_| ask()).collect();
        assert!(again.iter().map(status).filter(|&status| status == 200).count() + 1 >= count(200));
    });
}

/// Goal: a key whose scores nobody computes yet is never refused because of another one. Method: a judge who does not answer, one
/// key's requests until the queue is full for it, and the other key's first.
#[test]
fn one_keys_scores_never_shut_another_key_out() {
    let (url, questions) = slow_judge(Duration::from_secs(300));
    let daemon = TestDaemon::builder()
        .keys("daemon.api_keys_file", "one\nother\n")
        .set("reward.source=remote")
        .set(url)
        .set("reward.remote_timeout_ms=300000")
        .set("reward.max_queue=4")
        .start();
    let refused = |daemon: &TestDaemon| daemon.metric("honed_errors_total{code=\"queue_full\"}");
    let waiting = |daemon: &TestDaemon| daemon.metric("honed_score_queue_depth");
    let ask = |key: &str| {
        let authorization = format!("Bearer {key}");
        let body = json!({"text_1": "a", "text_2": "b"}).to_string();
        let headers = [JSON, ("authorization", authorization.as_str())];
        let known = waiting(&daemon) + refused(&daemon);
        let socket = send(daemon.address(), &request("POST", "/score", &headers, body.as_bytes()));
        (socket, known)
    };
    let mut open = vec![ask("one").0];
    questions.recv_timeout(PATIENCE).expect("the judge is asked");
    while refused(&daemon) == 0.0 {
        let (socket, known) = ask("one");
        daemon.wait_for("it waits or is refused", |d| waiting(d) + refused(d) > known);
        open.push(socket);
    }
    assert_eq!((waiting(&daemon), status(open.last().expect("it was refused"))), (3.0, 429));
    let (_other, known) = ask("other");
    daemon.wait_for("it waits or is refused", |d| waiting(d) + refused(d) > known);
    assert_eq!((waiting(&daemon), refused(&daemon)), (4.0, 1.0));
    // Also where all places are taken.
    let (_one, known) = ask("one");
    daemon.wait_for("it waits or is refused", |d| waiting(d) + refused(d) > known);
    assert_eq!((waiting(&daemon), refused(&daemon)), (4.0, 2.0));
}
