//! 38 to 40: foreign pages, clients that leave or never read, and HTTP that is crooked.

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
};

use serde_json::{Value, json};

use super::bench::{Bench, CHAT, COMPLETIONS, Case, FORGED, JSON};
use crate::harness::{
    client::{self, Stream, request},
    model::WINDOW,
};

pub(super) const CASES: &[Case] = &[
    (38, "a preflight from a foreign page, with credentials", |b| {
        for origin in ["http://evil.example", "null", "http://127.0.0.1.evil.example", "file://"] {
            let asks = [
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization, content-type"),
                ("cookie", "session=1"),
            ];
            for path in [CHAT, "/v1/policies", "/v1/training/pause"] {
                let reply = b.send("OPTIONS", path, &asks, b"");
                assert_eq!(reply.error(405)["code"], "method_not_allowed", "{path}");
                let allows = |name: &str| name.starts_with("access-control");
                assert!(reply.headers.iter().all(|(name, _)| !allows(name)), "{origin}: {:?}", reply.headers);
            }
            b.send("POST", "/v1/policies/0/activate", &[("origin", origin)], b"").error(403);
        }
    }),
    (38, "a Host that was rebound to this address", |b| {
        for host in ["evil.example", "127.0.0.1.evil.example", "evil.example:8080", "[::ffff:8.8.8.8]", ""] {
            let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            assert_eq!(b.raw(ask("/v1/policies").as_bytes()).error(403)["code"], "forbidden", "{host}");
            assert_eq!(b.raw(ask("/v1/rollouts").as_bytes()).error(403)["code"], "forbidden", "{host}");
        }
        b.get("/v1/policies").ok();
    }),
    (39, "clients that leave: in the head, before the body, in the body, in prefill, queued, streaming", |b| {
        let body = long(8, true);
        let whole = request("POST", COMPLETIONS, &[JSON], body.as_bytes());
        let (head, body_at) = (20, whole.len() - body.len());
        for n in [0, head, body_at, body_at + 10] {
            drop(sent(b, &whole[..n]));
        }
        // The engine has it or not: it is left at once, then with the slots taken, then with an answer on its way.
        (0..4).for_each(|_| drop(sent(b, &prefill())));
        let streams: Vec<Stream> = (0..3)
            .map(|_| {
                let body: Value = serde_json::from_str(&body).expect("JSON");
                let mut stream = Stream::open(b.process.address, COMPLETIONS, &body);
                stream.next_data().expect("it streams");
                stream
            })
            .collect();
        // More than there are slots, whoever leaves one meanwhile.
        let unstreamed = request("POST", COMPLETIONS, &[JSON], long(60, false).as_bytes());
        let queued: Vec<TcpStream> = (0..24).map(|i| sent(b, if i % 2 == 0 { &whole } else { &unstreamed })).collect();
        b.wait_for("some wait", || b.metric("honed_num_requests_waiting") >= 1.0);
        drop((queued, streams));
        b.settle();
    }),
    (39, "a client that closes its half after asking", |b| {
        let mut socket = sent(b, &request("POST", COMPLETIONS, &[JSON], long(1, false).as_bytes()));
        socket.flush().expect("sent");
        socket.shutdown(Shutdown::Write).expect("half closed");
        // It is told from one that left by nothing, so it may be answered or cut; it may not stay.
        let reply = client::until_hung_up(socket);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 200"), "{reply}");
        b.settle();
    }),
    (39, "a thousand idle sockets", |b| {
        let idle: Vec<TcpStream> = (0..1000).map(|_| client::connect(b.process.address)).collect();
        (0..5).for_each(|_| b.good());
        drop(idle);
        b.settle();
    }),
    (39, "a reader that never reads", |b| {
        let deaf = sent(b, &request("POST", "/tokenize", &[JSON], many_tokens().as_bytes()));
        let streaming = sent(b, &request("POST", COMPLETIONS, &[JSON], long(60, true).as_bytes()));
        (0..5).for_each(|_| b.good());
        b.wait_for("the engine is done with it", || b.metric("honed_num_requests_running") == 0.0);
        drop((deaf, streaming));
        b.settle();
    }),
    (40, "a length and chunks at once", |b| {
        // Two programs in a row that read such a message differently can be made to disagree about where it ends.
        let smuggled = "GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
        for lengths in
            ["content-length: 4\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 4"]
        {
            let head = format!(
                "POST {COMPLETIONS} HTTP/1.1\r\nhost: 127.0.0.1\r\n{}: {}\r\n{lengths}\r\n\r\n",
                JSON.0, JSON.1
            );
            let reply = exchanged(b, format!("{head}0\r\n\r\n{smuggled}").as_bytes());
            assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
            assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "nothing is read after it: {reply}");
        }
    }),
    (40, "lengths and chunks that contradict themselves", |b| {
        let post = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: 127.0.0.1\r\n{}: {}\r\n", JSON.0, JSON.1);
        for rest in [
            "content-length: 4\r\ncontent-length: 5\r\n\r\n{}{}",
            "transfer-encoding: identity, chunked, gzip\r\n\r\n0\r\n\r\n",
            "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
            "content-length : 4\r\n\r\n{}{}",
            "content-length: 4\n folded\r\n\r\n{}{}",
            "x\0y: 1\r\n\r\n",
            "no colon\r\n\r\n",
        ] {
            let reply = exchanged(b, format!("{post}{rest}").as_bytes());
            assert!(reply.starts_with("HTTP/1.1 400"), "{rest:?}: {reply}");
        }
        for chunks in ["zz\r\n{}\r\n0\r\n\r\n", "ffffffffffffffffff\r\n{}", "-1\r\n", "2\r\n{}extra\r\n0\r\n\r\n"] {
            let reply = exchanged(b, format!("{post}transfer-encoding: chunked\r\n\r\n{chunks}").as_bytes());
            assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400"), "{chunks:?}: {reply}");
        }
    }),
    (40, "other protocols", |b| {
        let mut rapid = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        // Streams that are opened and reset at once: HEADERS with END_STREAM and no block, then RST_STREAM.
        for id in (1_u32..2000).step_by(2) {
            rapid.extend(
                [&[0, 0, 0, 1, 5][..], &id.to_be_bytes(), &[0, 0, 4, 3, 0], &id.to_be_bytes(), &[0, 0, 0, 8]].concat(),
            );
        }
        let tls = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
        for bytes in [
            &rapid[..],
            tls,
            b"\0\0\0\0\r\n\r\n",
            b"GET /livez HTTP/9.9\r\n\r\n",
            b"GET  /livez HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\r\n",
        ] {
            let reply = exchanged(b, bytes);
            assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400"), "{reply}");
        }
    }),
    (40, "other methods, other spellings of a path, long ones", |b| {
        for method in ["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND"] {
            let reply = b.send(method, COMPLETIONS, &[JSON], b"{}");
            assert_eq!(reply.error(405)["code"], "method_not_allowed", "{method}");
        }
        let long = format!("/{}", "a".repeat(8 << 10));
        let dots = "/../../../../etc/passwd";
        for path in [
            "//v1/completions",
            "/v1/completions/",
            "/v1//completions",
            "/V1/completions",
            "/v1/completions%00",
            &long,
            dots,
        ] {
            assert_eq!(b.send("POST", path, &[JSON], b"{}").error(404)["code"], "not_found", "{path:.40}");
        }
        let huge = format!("/{}", "a".repeat(100_000));
        assert!([414, 431].contains(&b.get(&huge).status));
    }),
    (40, "ends of lines in names", |b| {
        let forged = format!("x\r\n{FORGED}\n\u{85}{FORGED}\u{2028}{FORGED}");
        b.post(COMPLETIONS, json!({"prompt": "a", "model": forged}).to_string()).error(404);
        b.post(CHAT, json!({"messages": [{"role": forged, "content": forged}]}).to_string()).error(400);
        b.accepts(COMPLETIONS, json!({"prompt": forged, "max_tokens": 1, "user": forged, "stop": "z\r\n"}).to_string());
        b.get("/x%0d%0aFORGED%20a%20line%20of%20the%20log").error(404);
        let answer = b.send("GET", "/livez", &[("x-request-id", &format!("a\u{85}{FORGED}"))], b"");
        assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req-")), "{answer:?}");
        // A bare end of line begins a header of its own, as everywhere; it is no value of the one before.
        let reply = b.raw(
            format!("GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nx-request-id: a\r\n{}: b\r\n\r\n", "forged").as_bytes(),
        );
        assert_eq!(reply.header("x-request-id"), Some("a"));
        assert!(reply.header("forged").is_none(), "{reply:?}");
    }),
];

/// A request whose answer takes a while.
fn long(n: u32, stream: bool) -> String {
    json!({"prompt": "the ocean", "max_tokens": 240, "ignore_eos": true, "n": n, "stream": stream}).to_string()
}

/// A prompt as long as the window.
fn prefill() -> Vec<u8> {
    let body =
        json!({"prompt": vec![9; WINDOW - 1], "max_tokens": 1, "n": 4, "logprobs": 20, "echo": true}).to_string();
    request("POST", COMPLETIONS, &[JSON], body.as_bytes())
}

/// A text whose tokens take more bytes than a socket's buffers hold.
fn many_tokens() -> String {
    json!({"prompt": "\u{1f30a}".repeat(450_000)}).to_string()
}

fn sent(b: &Bench, bytes: &[u8]) -> TcpStream {
    let mut socket = client::connect(b.process.address);
    socket.write_all(bytes).expect("sent");
    socket
}

/// What comes back until the daemon closes, which it must.
#[track_caller]
fn exchanged(b: &Bench, bytes: &[u8]) -> String {
    let mut socket = client::connect(b.process.address);
    // A daemon that has refused already may have closed.
    let _ = socket.write_all(bytes);
    client::until_hung_up(socket)
}
