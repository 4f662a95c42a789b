//! A client as anybody would write one: blocking HTTP/1.1, streams read line by line.

use std::{
    io::{BufRead, BufReader},
    time::{Duration, Instant},
};

use super::error::{DemoError, Result};
use crate::http::wire::client::{self as wire, Ask, Piece, VersionRow};

/// Milliseconds between retries while the daemon loads.
const RETRY: Duration = Duration::from_millis(50);

/// A connection pool to one daemon. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    agent: ureq::Agent,
    base: String,
}

/// One response as the client saw it.
#[derive(Clone, Debug, Default)]
pub(super) struct Response {
    /// Its text.
    pub(super) text: String,
    /// Whether the policy ended it.
    pub(super) ended: bool,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// One for each choice.
    pub(super) responses: Vec<Response>,
    /// The version that answered.
    pub(super) version: u64,
    /// Milliseconds between pieces of a stream; the first is the time to the first piece. Empty without a stream.
    pub(super) gaps_ms: Vec<f64>,
}

impl Client {
    /// A client of the daemon at this address.
    pub(super) fn new(address: std::net::SocketAddr) -> Client {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .max_idle_connections_per_host(32)
            .no_delay(true)
            .build();
        Client { agent: config.new_agent(), base: format!("http://{address}") }
    }

    /// Waits until requests are admitted.
    pub(super) fn wait_ready(&self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.get("/readyz") {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > patience => return Err(error),
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    /// Asks for an answer. Anything but a whole answer is an error, with the reason as the client sees it.
    pub(super) fn ask(&self, ask: &Ask<'_>) -> std::result::Result<Reply, String> {
        let started = Instant::now();
        let mut response = self.send(ask.route(), &ask.body())?;
        let mut reply = Reply { responses: vec![Response::default(); ask.n as usize], version: 0, gaps_ms: Vec::new() };
        if !ask.stream {
            let body = response.body_mut().read_to_vec().map_err(|error| error.to_string())?;
            take(&mut reply, &wire::piece(&body)?)?;
            return Ok(reply);
        }
        let mut last = started;
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line.map_err(|error| format!("the stream broke: {error}"))?;
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                return Ok(reply);
            }
            let now = Instant::now();
            reply.gaps_ms.push(now.duration_since(last).as_secs_f64() * 1e3);
            last = now;
            take(&mut reply, &wire::piece(data.as_bytes())?)?;
        }
        Err("the stream ended without [DONE]".to_owned())
    }

    /// Scores of (instruction, answer) pairs by the daemon's reward model.
    pub(super) fn rewards(&self, exchanges: &[(&str, &str)]) -> Result<Vec<f64>> {
        let route = "/v1/rewards";
        let reason = |reason| DemoError::Http { route: format!("POST {route}"), reason };
        let mut response = self.send(route, &wire::rewards_body(exchanges)).map_err(reason)?;
        let body = response.body_mut().read_to_vec().map_err(|error| reason(error.to_string()))?;
        wire::rewards(&body).map_err(reason)
    }

    /// The live version's number and all versions, oldest first.
    pub(super) fn versions(&self) -> Result<(u64, Vec<VersionRow>)> {
        let route = "/v1/policies";
        wire::versions(&self.get(route)?).map_err(|reason| DemoError::Http { route: format!("GET {route}"), reason })
    }

    /// Stops the learner after the round it is in; the live version stays.
    pub(super) fn pause_learning(&self) -> Result<()> {
        let route = "/v1/training/pause";
        let reason = |reason| DemoError::Http { route: format!("POST {route}"), reason };
        let mut response = self.send(route, b"{}").map_err(reason)?;
        response.body_mut().read_to_vec().map(drop).map_err(|error| reason(error.to_string()))
    }

    fn get(&self, route: &str) -> Result<Vec<u8>> {
        let failed = |reason| DemoError::Http { route: format!("GET {route}"), reason };
        let mut response =
            self.agent.get(format!("{}{route}", self.base)).call().map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        let body = response.body_mut().read_to_vec().map_err(|error| failed(error.to_string()))?;
        if status.is_success() { Ok(body) } else { Err(failed(refusal(status.as_u16(), &body))) }
    }

    fn send(&self, route: &str, body: &[u8]) -> std::result::Result<ureq::http::Response<ureq::Body>, String> {
        let request = self.agent.post(format!("{}{route}", self.base)).content_type("application/json");
        let mut response = request.send(body).map_err(|error| error.to_string())?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        Err(refusal(status, &response.body_mut().read_to_vec().unwrap_or_default()))
    }
}

fn refusal(status: u16, body: &[u8]) -> String {
    format!("status {status}: {}", String::from_utf8_lossy(body).trim())
}

/// Adds a piece to what has been read; all pieces must come from one version.
fn take(reply: &mut Reply, piece: &Piece) -> std::result::Result<(), String> {
    let fingerprint = piece.system_fingerprint.as_deref().unwrap_or_default();
    let version = fingerprint.rsplit_once('@').and_then(|(_, number)| number.parse().ok());
    let version = version.ok_or_else(|| format!("no version in the fingerprint {fingerprint:?}"))?;
    if !reply.gaps_ms.is_empty() && reply.gaps_ms.len() > 1 && reply.version != version {
        return Err(format!("one response mixes policy@{} and policy@{version}", reply.version));
    }
    reply.version = version;
    for choice in &piece.choices {
        let response = reply.responses.get_mut(choice.index).ok_or("a choice that was not asked for")?;
        response.text.push_str(choice.text());
        if let Some(reason) = &choice.finish_reason {
            response.ended = reason == "stop";
        }
    }
    Ok(())
}
