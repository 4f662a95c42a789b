//! Against a real socket: a server that gives scripted answers.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::mpsc,
};

use super::*;
use crate::sources::mix::Formula;

/// Serves the answers in turn, one connection each, and hands out what was asked. An empty answer is silence: the server
/// holds the connection until the client gives up.
fn serve(answers: Vec<String>) -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/get_reward", listener.local_addr().unwrap());
    let (asked, questions) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut n_bytes = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(length) = line.to_lowercase().strip_prefix("content-length:") {
                    n_bytes = length.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; n_bytes];
            reader.read_exact(&mut body).unwrap();
            let _ = asked.send(serde_json::from_slice(&body).unwrap());
            if answer.is_empty() {
                let _ = reader.read(&mut [0]);
            } else {
                let _ = reader.get_mut().write_all(answer.as_bytes());
            }
        }
    });
    (url, questions)
}

fn http(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn item(prompt: &str, response: &str) -> ScoreRequest {
    ScoreRequest {
        prompt: [].into(),
        response: Vec::new(),
        prompt_text: prompt.into(),
        response_text: response.to_owned(),
        formula: Formula::REMOTE,
    }
}

/// What two items get from a server with these answers, the pauses in between, and what was asked.
struct Exchange {
    outcomes: Vec<Result<f64, ScoreError>>,
    pauses: Vec<Duration>,
    questions: Vec<Value>,
    counters: Counters,
}

fn exchange(answers: Vec<String>) -> Exchange {
    let (url, questions) = serve(answers);
    let mut reward = config::Config::default().reward;
    (reward.remote_url, reward.remote_retries, reward.remote_timeout_ms) = (url, 3, 2_000);
    let (counters, pauses) = (Counters::default(), RefCell::new(Vec::new()));
    let items = [item("Say hi.\n", "Hi!<|endoftext|>"), item("2+2?", " four")];
    let pause = |delay| {
        pauses.borrow_mut().push(delay);
        true
    };
    let outcomes = RemoteSource::new(&reward).score(&items.each_ref(), &counters, &pause);
    Exchange { outcomes, pauses: pauses.into_inner(), questions: questions.try_iter().collect(), counters }
}

/// Both texts fail: asked about together so many times, and where that may be one text's fault, once each.
fn check_fails(answer: String, n_calls: usize, cause: &str) {
    let result = exchange(vec![answer; 8]);
    assert_eq!(result.questions.len(), n_calls, "{cause}");
    for outcome in result.outcomes {
        let message = outcome.expect_err(cause).to_string();
        assert!(message.contains(cause), "{message:?} does not mention {cause:?}");
    }
}

#[test]
fn the_question_and_the_answer_have_openrlhfs_shape() {
    let result = exchange(vec![http("200 OK", r#"{"rewards":[0.5,-2],"scores":[9,9],"extra_logs":{}}"#)]);
    assert_eq!(result.outcomes, [Ok(0.5), Ok(-2.0)]);
    let expected = json!({
        "query": ["Say hi.\nHi!<|endoftext|>", "2+2? four"],
        "prompts": ["Say hi.\n", "2+2?"],
        "labels": ["", ""],
    });
    assert_eq!(result.questions, [expected]);
    let scores = exchange(vec![http("200 OK", r#"{"rewards":null,"scores":[1,2]}"#)]);
    assert_eq!(scores.outcomes, [Ok(1.0), Ok(2.0)]);
}

#[test]
fn what_may_pass_is_tried_again_with_growing_pauses() {
    let busy = || http("503 Service Unavailable", "later");
    let good = http("200 OK", r#"{"rewards":[1,2]}"#);
    let result = exchange(vec![busy(), http("429 Too Many Requests", ""), String::from("nonsense\r\n\r\n"), good]);
    assert_eq!(result.outcomes, [Ok(1.0), Ok(2.0)]);
    assert_eq!(result.pauses.len(), 3);
    for (n, pause) in result.pauses.iter().enumerate() {
        let full = PAUSE_MIN * (1 << n);
        assert!(full / 2 <= *pause && *pause <= full, "pause {n}: {pause:?}");
    }
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!((count(&result.counters.remote_calls), count(&result.counters.remote_failures)), (4, 3));
    assert!(backoff(40) <= PAUSE_MAX);
}

#[test]
fn tries_end_and_leave_an_error() {
    check_fails(http("500 Oops", "stack trace"), 4 + 2, "HTTP status 500 (11 bytes");
    check_fails(http("503 Service Unavailable", "later"), 4, "HTTP status 503");
    check_fails(http("429 Too Many Requests", ""), 4, "HTTP status 429");
}

#[test]
fn what_cannot_pass_is_not_tried_again() {
    check_fails(http("404 Not Found", ""), 1 + 2, "HTTP status 404");
    check_fails(http("307 Moved", ""), 1 + 2, "HTTP status 307");
    check_fails(http("200 OK", "<html>"), 1 + 2, "not JSON");
    check_fails(http("200 OK", r#"{"reward":[1,2]}"#), 1 + 2, "no array `rewards`");
    check_fails(http("200 OK", r#"{"rewards":[1,2,3]}"#), 1 + 2, "rewards, got 3");
    check_fails(http("200 OK", r#"{"rewards":[NaN,1]}"#), 1 + 2, "not JSON");
    check_fails(http("200 OK", &"x".repeat(2 << 20)), 1 + 2, "larger than");
}

/// Goal: what people wrote does not reach the log through a server that echoes it. Method: an echo in every unusable answer.
#[test]
fn errors_quote_nothing_that_the_server_says() {
    for answer in [
        http("500 Oops", "cannot score 'Say hi.'"),
        http("400 Bad Request", r#"{"detail":"cannot score 'Say hi.'"}"#),
        http("200 OK", "Say hi."),
        http("200 OK", r#"{"Say hi.":1}"#),
        http("200 OK", r#"{"rewards":["Say hi.",{"of":"Say hi."}]}"#),
    ] {
        for outcome in exchange(vec![answer; 8]).outcomes {
            let message = outcome.expect_err("unusable").to_string();
            assert!(!message.contains("hi"), "{message}");
        }
    }
}

#[test]
fn an_entry_that_is_no_number_fails_alone() {
    let result = exchange(vec![http("200 OK", r#"{"rewards":[null,1.5]}"#)]);
    assert!(result.outcomes[0].as_ref().is_err_and(|error| error.to_string().contains("null")));
    assert_eq!(result.outcomes[1], Ok(1.5));
}

/// Goal: one text that the server cannot take costs itself alone. Method: two texts, of which the second is refused with and without
/// company; and a server that refuses everything, which says nothing about either.
#[test]
fn a_text_that_is_refused_spares_the_others() {
    let good = || http("200 OK", r#"{"rewards":[1.5]}"#);
    for (status, code) in [("413 Content Too Large", 413), ("400 Bad Request", 400), ("422 Unprocessable", 422)] {
        let result = exchange(vec![http(status, ""), good(), http(status, "")]);
        assert_eq!(result.outcomes, [Ok(1.5), Err(ScoreError::Refused { status: code })]);
        let alone = json!({"query": ["2+2? four"], "prompts": ["2+2?"], "labels": [""]});
        assert_eq!((result.questions.len(), result.questions.last()), (3, Some(&alone)));
    }
    let oops = || http("500 Oops", "");
    let result = exchange(vec![oops(), oops(), oops(), oops(), good(), oops()]);
    assert_eq!(result.outcomes[0], Ok(1.5));
    let is_kept = |outcome: &Result<f64, ScoreError>| matches!(outcome, Err(ScoreError::Remote(_)));
    assert!(is_kept(&result.outcomes[1]), "a 5xx may pass");
    let moved = exchange(vec![http("404 Not Found", ""); 3]);
    assert!(moved.outcomes.iter().all(is_kept), "{:?}", moved.outcomes);
    let gone = exchange(vec![http("400 Bad Request", ""), http("503 Service Unavailable", "")]);
    assert!(gone.outcomes.iter().all(is_kept) && gone.questions.len() == 2, "a server that is busy is left alone");
}

/// A text that comes alone is refused for good while the server judges others, and not by one that judges nobody.
#[test]
fn a_lone_text_is_refused_by_a_server_that_judges_others() {
    let (url, _questions) = serve(vec![
        http("413 Content Too Large", ""),
        http("200 OK", r#"{"rewards":[1]}"#),
        http("413 Content Too Large", ""),
        http("413 Content Too Large", ""),
    ]);
    let mut reward = config::Config::default().reward;
    (reward.remote_url, reward.remote_timeout_ms) = (url, 2_000);
    let source = RemoteSource::new(&reward);
    let ask = || source.score(&[&item("a", "b")], &Counters::default(), &|_| true).remove(0);
    assert!(matches!(ask(), Err(ScoreError::Remote(_))), "it has judged nobody yet");
    assert_eq!(ask(), Ok(1.0));
    assert_eq!(ask(), Err(ScoreError::Refused { status: 413 }));
    assert!(matches!(ask(), Err(ScoreError::Remote(_))), "it may have stopped judging");
}

#[test]
fn silence_times_out_and_a_stop_ends_the_tries() {
    let (url, questions) = serve(vec![String::new()]);
    let mut reward = config::Config::default().reward;
    (reward.remote_url, reward.remote_timeout_ms) = (url, 50);
    let outcomes = RemoteSource::new(&reward).score(&[&item("a", "b")], &Counters::default(), &|_| false);
    assert!(outcomes[0].as_ref().is_err_and(|error| error.to_string().contains("timeout")), "{outcomes:?}");
    assert_eq!(questions.try_iter().count(), 1);
}
