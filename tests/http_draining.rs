//! What a stop waits for and what it leaves behind, and what waits to be judged: behind a judge that takes its time.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{
    client::{self, request},
    model::{self, WINDOW},
    process::Process,
};

const JSON: (&str, &str) = ("content-type", "application/json");

fn post(path: &str, body: &Value) -> Vec<u8> {
    request("POST", path, &[JSON], body.to_string().as_bytes())
}

/// A reward server that answers each question after so long, and tells that it was asked.
pub(crate) fn slow_judge(pause: Duration) -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("reward.remote_url=http://{}/", listener.local_addr().expect("bound"));
    let (asked, questions) = mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, asked) = (socket.expect("a connection"), asked.clone());
            std::thread::spawn(move || judge(&socket, &asked, pause));
        }
    });
    (url, questions)
}

fn judge(socket: &TcpStream, asked: &Sender<()>, pause: Duration) {
    let mut reader = BufReader::new(socket);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a head");
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().expect("a length");
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let question: Value = serde_json::from_slice(&body).expect("JSON");
    // The test may be over, and so may the daemon be, by the time that there is an answer.
    let _ = asked.send(());
    std::thread::sleep(pause);
    let answer = json!({"rewards": vec![0.5; question["query"].as_array().expect("texts").len()]}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
    let _ = { socket }.write_all([head, answer].concat().as_bytes());
}

/// Goal: a shutdown cuts no request that was admitted, whoever answers it. Method: a judge that is asked three times in a row, the
/// last time after the few seconds that everything gets at its end, and nothing for the engine to do.
#[test]
fn sigterm_waits_for_scores_that_were_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, questions) = slow_judge(Duration::from_secs(3));
    let sets = ["ppo.enabled=false", "reward.source=remote", &url, "reward.batch=1", "daemon.drain_s=30"];
    let mut daemon = Process::serve(folder.path(), &sets);
    let address = daemon.address;
    client::until_ready(address);
    let body = json!({"input": vec![json!({"prompt": "a", "completion": "b"}); 3]});
    let asking = std::thread::spawn(move || client::raw(address, &post("/v1/rewards", &body)));
    questions.recv_timeout(Duration::from_secs(30)).expect("the judge is asked");
    daemon.signal(libc::SIGTERM);
    let stopped = Instant::now();
    let answer = asking.join().expect("an answer").ok();
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(3), "{answer}");
    assert!(daemon.wait().success());
    assert!(stopped.elapsed() < Duration::from_secs(20), "nothing else was to be waited for: {:?}", stopped.elapsed());
}

/// A file with other weights in the folder for models, the daemon at it when it is told to stop, and how long it took then.
fn stopped_in_an_import(folder: &Path, watch: &str) -> Duration {
    let (models, data) = (folder.join("models"), folder.join("data"));
    std::fs::create_dir_all(&models).expect("a folder");
    model::write(&models.join("new.gguf"), 5);
    let (folder, watch) = (format!("daemon.import_dir={}", models.display()), format!("daemon.import_watch={watch}"));
    let sets = ["ppo.enabled=false", &folder, &watch, "daemon.import_poll_ms=20", "daemon.drain_s=1"];
    let mut daemon = Process::try_serve(&data, &sets, "import.copied=delay:60000").expect("it serves");
    client::until_ready(daemon.address);
    let mut asking = client::connect(daemon.address);
    if watch.ends_with("off") {
        asking.write_all(&post("/v1/policies", &json!({"path": "new.gguf"}))).expect("sent");
    }
    let began = Instant::now();
    while !data.join("versions").read_dir().expect("a folder").flatten().any(|file| is_a_copy(&file.path())) {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was copied");
        std::thread::yield_now();
    }
    daemon.signal(libc::SIGTERM);
    let stopped = Instant::now();
    assert!(daemon.wait().success());
    stopped.elapsed()
}

/// Whether it is the weights of a version beside version 0.
fn is_a_copy(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gguf") && path.file_stem().is_some_and(|name| name != "policy-0")
}

/// Goal: the daemon ends in time whatever blocks beside it. Method: a model that takes a minute to be looked at, taken in by a request
/// and by the watch of the folder.
#[test]
fn sigterm_leaves_behind_what_blocks() {
    let took = std::thread::scope(|scope| {
        let stopped = |watch: &'static str| {
            scope.spawn(move || {
                let folder = tempfile::tempdir().expect("a folder");
                stopped_in_an_import(folder.path(), watch)
            })
        };
        ["off", "load"].map(stopped).map(|one| one.join().expect("it stopped"))
    });
    assert!(took.iter().all(|took| *took < Duration::from_secs(25)), "{took:?}");
}

fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = client::raw(address, &request("GET", "/metrics", &[], b"")).text();
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a number")
}

/// Goal: what waits to be judged has a prompt in memory once, however many responses there are to it. Method: a judge who does not
/// answer, and forty requests of some thousand responses to a prompt as long as the window: copies of it took 200 MiB.
#[test]
fn a_prompt_that_waits_with_its_responses_is_in_memory_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, questions) = slow_judge(Duration::from_secs(300));
    let sets = ["ppo.enabled=false", "reward.source=remote", &url, "reward.remote_timeout_ms=300000"];
    let daemon = Process::serve(folder.path(), &sets);
    let address = daemon.address;
    client::until_ready(address);
    let query = "\u{1f30a}".repeat(WINDOW / 4 - 2);
    let body = post("/rerank", &json!({"query": query, "documents": vec!["a"; 4000]}));
    let ask = || {
        let mut socket = client::connect(address);
        socket.write_all(&body).expect("sent");
        socket
    };
    let first = ask();
    questions.recv_timeout(Duration::from_secs(60)).expect("the judge is asked");
    let before = daemon.rss_kib();
    let others: Vec<TcpStream> = (0..40).map(|_| ask()).collect();
    let began = Instant::now();
    while metric(address, "honed_score_queue_depth") < others.len() as f64 {
        assert!(began.elapsed() < Duration::from_secs(120), "{} wait", metric(address, "honed_score_queue_depth"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = daemon.rss_kib().saturating_sub(before) / 1024;
    assert!(grown < 110, "{grown} MiB");
    drop((first, others));
}
