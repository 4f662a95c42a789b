//! 1 to 11: bodies and headers that are wrong as a whole.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use super::bench::{Bench, COMPLETIONS, Case, JSON, WHOLE};
use crate::harness::client::{self, request};

const GOOD: &str = r#"{"prompt":"the","max_tokens":1}"#;
/// `daemon.body_bytes_max`, where nobody set it.
const BODY_BYTES_MAX: usize = 2 << 20;

pub(super) const CASES: &[Case] = &[
    (1, "an empty body", |b| b.refuses(COMPLETIONS, WHOLE, "")),
    (2, "a body that is no object", |b| {
        ["[]", "5", "\"x\"", "true", "null"].iter().for_each(|body| b.refuses(COMPLETIONS, WHOLE, body));
    }),
    (3, "JSON that breaks off", |b| (1..GOOD.len()).for_each(|n| b.refuses(COMPLETIONS, WHOLE, &GOOD[..n]))),
    (4, "JSON nested a hundred thousand deep", |b| {
        for open in ["[", "{\"a\":"] {
            let deep = open.repeat(100_000);
            b.refuses(COMPLETIONS, WHOLE, &deep);
            b.refuses(COMPLETIONS, WHOLE, format!(r#"{{"prompt":"a","unknown":{deep}"#));
            b.refuses("/v1/rewards", WHOLE, format!(r#"{{"input":{deep}"#));
        }
    }),
    (5, "duplicate keys: the last wins, as in Python's and JavaScript's parsers", |b| {
        let answer = b.accepts_fields(r#""max_tokens":1,"ignore_eos":true"#);
        assert_eq!(answer["usage"]["completion_tokens"], 1);
        b.refuses_fields("n", r#""n":1,"n":0"#);
    }),
    (6, "bytes that are not UTF-8, halves of surrogates", |b| {
        for half in ["\\ud800", "\\udc00", "\\ud800\\ud800", "\\ud800a", "\\ud83c"] {
            b.refuses(COMPLETIONS, WHOLE, format!(r#"{{"prompt":"{half}"}}"#));
        }
        for bytes in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"] {
            b.refuses(COMPLETIONS, WHOLE, [b"{\"prompt\":\"", bytes, b"\"}"].concat());
        }
    }),
    (7, "NUL: a character of a text like any other, and part of no name", |b| {
        b.accepts(COMPLETIONS, r#"{"prompt":"a\u0000b","max_tokens":2,"stop":"\u0000","user":"u\u0000v"}"#);
        let text = b.accepts("/tokenize", r#"{"prompt":"a\u0000b"}"#);
        let back = b.accepts("/detokenize", format!(r#"{{"tokens":{}}}"#, text["tokens"]));
        assert_eq!(back["prompt"], "a\0b", "nothing ends at it");
        for model in ["policy\\u0000", "\\u0000", "policy\\u0000@0"] {
            let reply = b.post(COMPLETIONS, format!(r#"{{"prompt":"a","model":"{model}"}}"#));
            assert_eq!(reply.error(404)["code"], "model_not_found", "{model}");
        }
        b.refuses(COMPLETIONS, WHOLE, "{\"prompt\":\"a\0b\"}");
    }),
    (8, "a body over the limit, with and without its length", |b| {
        let mut body = GOOD.to_owned();
        body.push_str(&" ".repeat(BODY_BYTES_MAX - body.len()));
        b.accepts(COMPLETIONS, &body);
        body.push(' ');
        assert_eq!(b.post(COMPLETIONS, &body).error(413)["code"], "body_too_large");
        assert_eq!(b.raw(&chunked(body.as_bytes())).error(413)["code"], "body_too_large");
        b.raw(&chunked(GOOD.as_bytes())).ok();
    }),
    (8, "a length that is not the body's", |b| {
        // The rest of a body that is longer than it says would be read as the next request.
        let shorter = post(&[("content-length", "5")], GOOD.as_bytes());
        assert!(b.raw(&shorter).error(400)["param"].is_null());
        let mut longer = client::connect(b.process.address);
        longer.write_all(&post(&[("content-length", "5000")], GOOD.as_bytes())).expect("sent");
        longer.shutdown(std::net::Shutdown::Write).expect("half closed");
        let reply = client::until_hung_up(longer);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400"), "{reply}");
        for length in ["-1", "1e3", "0x10", "99999999999999999999999", "5, 5, 6", ""] {
            assert_eq!(b.raw(&post(&[("content-length", length)], GOOD.as_bytes())).status, 400, "{length:?}");
        }
    }),
    (9, "a type that is not JSON, or none", |b| {
        for headers in [
            &[][..],
            &[("content-type", "text/plain")],
            &[("content-type", "application/x-www-form-urlencoded")],
            &[("content-type", "multipart/form-data; boundary=x")],
            &[("content-type", "application/jsonx")],
            &[("content-type", "\u{e9}")],
        ] {
            let reply = b.send("POST", COMPLETIONS, headers, GOOD.as_bytes());
            assert_eq!(reply.error(415)["code"], "unsupported_media_type", "{headers:?}");
        }
        b.send("POST", COMPLETIONS, &[("content-type", "Application/JSON; charset=utf-8")], GOOD.as_bytes()).ok();
    }),
    (9, "a compressed body, which could be a bomb: none is ever unpacked", |b| {
        // The head of a gzip stream and then zeros: what it says is never looked at.
        let bomb = [&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], &[0; 100_000]].concat();
        for encoding in ["gzip", "deflate", "br", "identity, gzip", "zstd"] {
            let reply = b.send("POST", COMPLETIONS, &[JSON, ("content-encoding", encoding)], &bomb);
            assert_eq!(reply.error(415)["code"], "unsupported_media_type", "{encoding}");
        }
    }),
    (10, "a header of 64 KiB, and ten thousand headers", |b| {
        let reply =
            |headers: &str| b.raw(format!("GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n").as_bytes());
        let many: String = (0..10_000).map(|i| format!("x-{i}: 1\r\n")).collect();
        let long = |n_bytes: usize| format!("x-a: {}\r\n", "a".repeat(n_bytes));
        assert_eq!(reply(&long(64 << 10)).error(431)["code"], "headers_too_large");
        // hyper answers these before there is a request that a handler of ours could see, so they have no body.
        assert_eq!(reply(&long(1 << 20)).status, 431);
        assert_eq!(reply(&many).status, 431);
    }),
    (11, "a head, and then a body, byte by byte without end", |b| {
        let whole = request("POST", COMPLETIONS, &[JSON], GOOD.as_bytes());
        let body_at = whole.len() - GOOD.len();
        drip(b, &whole, 0);
        let reply = drip(b, &whole, body_at);
        assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("body_timeout"), "{reply}");
    }),
];

/// A completion with these headers beside its type, and no others.
fn post(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n");
    for (name, value) in [JSON].iter().chain(headers) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", body.len());
    post(&[("transfer-encoding", "chunked")], &[size.as_bytes(), body, b"\r\n0\r\n\r\n"].concat())
}

/// Sends what comes before `at` at once and the rest one byte at a time, too slowly to be done in time; returns what the
/// daemon said before it hung up.
fn drip(b: &Bench, whole: &[u8], at: usize) -> String {
    let mut socket = client::connect(b.process.address);
    socket.write_all(&whole[..at]).expect("sent");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let began = Instant::now();
    let mut said = Vec::new();
    for byte in whole[at..].iter().cycle() {
        assert!(began.elapsed() < Duration::from_secs(10), "the daemon still waits for the end");
        let mut some = [0; 4096];
        let is_over = socket.write_all(&[*byte]).is_err();
        // The wait between two bytes, and a look whether the daemon has had enough.
        match socket.read(&mut some) {
            Ok(0) => break,
            Ok(n) => said.extend_from_slice(&some[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if is_over {
            break;
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}
