//! HTTP as bytes on a socket, because half of what is tested is what no client library would send.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// Longer than anything here takes, shorter than a person's patience.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}", String::from_utf8_lossy(&self.body)))
    }

    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The error of a refusal, after a look at its shape: four keys, always.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        let error = self.json()["error"].clone();
        let mut keys: Vec<_> = error.as_object().expect("an object").keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["code", "message", "param", "type"]);
        error
    }
}

/// Waits until the daemon admits requests.
pub(crate) fn until_ready(address: SocketAddr) {
    let start = std::time::Instant::now();
    while raw(address, &request("GET", "/readyz", &[], b"")).status != 200 {
        assert!(start.elapsed() < TIMEOUT, "not ready");
        std::thread::yield_now();
    }
}

/// Sends bytes as they are and reads the answer.
pub(crate) fn raw(address: SocketAddr, request: &[u8]) -> Reply {
    ask(connect(address), request)
}

/// The same on a connection that is there.
pub(crate) fn ask(mut socket: TcpStream, request: &[u8]) -> Reply {
    // A daemon that has refused already may have closed; its answer is what counts.
    let _ = socket.write_all(request);
    read_reply(&mut BufReader::new(socket))
}

/// A well-formed request of its own connection.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("the daemon listens");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket
}

/// Reads status line and headers.
pub(crate) fn read_head(reader: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status line");
    let status =
        line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {line:?}"));
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return (status, headers),
        }
    }
}

/// Whatever comes until the other side hangs up, which it must: silence on an open socket is no end. A reset is one.
#[track_caller]
pub(crate) fn until_hung_up(mut socket: TcpStream) -> String {
    let mut said = Vec::new();
    if let Err(error) = socket.read_to_end(&mut said) {
        let said = String::from_utf8_lossy(&said);
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "nobody hung up: {error} after {said:?}");
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn read_reply(reader: &mut impl BufRead) -> Reply {
    let (status, headers) = read_head(reader);
    let mut reply = Reply { status, headers, body: Vec::new() };
    if reply.header("transfer-encoding").is_some() {
        while let Some(chunk) = read_chunk(reader) {
            reply.body.extend(chunk);
        }
    } else {
        let length = reply.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        reply.body.resize(length, 0);
        reader.read_exact(&mut reply.body).expect("the whole body");
    }
    reply
}

/// The next chunk of a body that comes in chunks; `None` at its end.
pub(crate) fn read_chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut size = String::new();
    reader.read_line(&mut size).expect("a chunk size");
    let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("the stream broke off: {size:?}"));
    let mut chunk = vec![0; size + 2];
    reader.read_exact(&mut chunk).expect("a whole chunk");
    chunk.truncate(size);
    (size > 0).then_some(chunk)
}

/// A stream of server-sent events, read as it comes.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
    headers: Vec<(String, String)>,
    buffer: Vec<u8>,
    /// Everything is in the buffer already.
    is_whole: bool,
}

impl Stream {
    pub(crate) fn open(address: SocketAddr, path: &str, body: &Value) -> Stream {
        let mut socket = connect(address);
        let json = [("content-type", "application/json")];
        socket.write_all(&request("POST", path, &json, body.to_string().as_bytes())).expect("sent");
        let mut reader = BufReader::new(socket);
        let (status, headers) = read_head(&mut reader);
        assert_eq!(status, 200, "{headers:?}");
        let length =
            headers.iter().find(|(name, _)| name == "content-length").map(|(_, n)| n.parse().expect("a number"));
        let mut buffer = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut buffer).expect("the whole body");
        Stream { reader, headers, buffer, is_whole: length.is_some() }
    }

    /// The version in the header.
    pub(crate) fn version(&self) -> &str {
        self.header("x-honed-version").expect("every response has it")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The next event's data; `None` at the end of the body.
    pub(crate) fn next_data(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = String::from_utf8(event).expect("UTF-8");
                if let Some(data) = event.trim_end().strip_prefix("data: ") {
                    return Some(data.to_owned());
                }
                continue;
            }
            if self.is_whole {
                return None;
            }
            self.buffer.extend(read_chunk(&mut self.reader)?);
        }
    }

    /// All events up to `[DONE]`, which must come and be the last.
    pub(crate) fn events(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(data) = self.next_data() {
            if data == "[DONE]" {
                assert_eq!(self.next_data(), None, "nothing follows [DONE]");
                return events;
            }
            events.push(serde_json::from_str(&data).unwrap_or_else(|e| panic!("{e} in {data}")));
        }
        panic!("the stream ended without [DONE] after {} events", events.len());
    }
}
