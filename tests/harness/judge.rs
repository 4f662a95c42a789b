//! A reward server that takes its time.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use serde_json::{Value, json};

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
