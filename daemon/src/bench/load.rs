//! Closed-loop traffic: each client asks again as soon as it has its answer. Every request streams; unless a learner is to
//! train on it, it ignores the end token, so the work is the same for every run.

use std::{
    io::{BufRead, BufReader},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::http::wire::{
    client,
    measurement::{Load, Quantiles},
};

/// Words of prompts: frequent ones, so that any tokenizer makes few tokens of them.
const WORDS: [&str; 16] =
    ["the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not"];
/// Longer than any sane answer takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// How to ask.
#[derive(Clone, Copy)]
pub(super) struct Traffic<'a> {
    /// `http://ADDR`.
    pub(super) url: &'a str,
    /// Clients.
    pub(super) concurrency: usize,
    /// Tokens of each answer.
    pub(super) max_tokens: u32,
    /// Words of each prompt.
    pub(super) prompt_words: usize,
    /// Whether the answers are such as a learner takes: logged, and ended by the model.
    pub(super) trains: bool,
    /// Whether answers are from half of `max_tokens` to all of it long: all of one length, clients end and begin as one.
    pub(super) ragged: bool,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    failed: u64,
    ok: u64,
    tokens: u64,
    first_ms: Vec<f64>,
    gaps: Vec<Gap>,
    /// Why the first one failed.
    reason: Option<String>,
}

/// Between two tokens of one stream; there may be millions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gap {
    /// Since the traffic began.
    began_us: u32,
    ms: f32,
}

impl Gap {
    fn new(traffic_began: Instant, began: Instant, ended: Instant) -> Gap {
        let began_us = since(traffic_began, began);
        Gap { began_us, ms: (ended.duration_since(began).as_secs_f64() * 1e3) as f32 }
    }

    pub(super) fn ms(self) -> f64 {
        f64::from(self.ms)
    }
}

/// Microseconds from one moment to another, 0 to 71 minutes.
fn since(began: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(began).as_micros()).unwrap_or(u32::MAX)
}

/// All gaps that clients saw.
pub(super) struct Gaps {
    began: Instant,
    all: Vec<Gap>,
}

impl Gaps {
    /// Those that have a moment in common with one of these times.
    pub(super) fn across(&self, times: &[(Instant, Instant)]) -> Vec<f64> {
        let times: Vec<_> = times.iter().map(|(from, to)| (since(self.began, *from), since(self.began, *to))).collect();
        let is_across = |gap: &&Gap| {
            let ended_us = gap.began_us.saturating_add((gap.ms * 1e3).ceil() as u32);
            times.iter().any(|(from, to)| gap.began_us <= *to && *from <= ended_us)
        };
        self.all.iter().filter(is_across).map(|gap| gap.ms()).collect()
    }
}

impl Traffic<'_> {
    /// Asks until `meanwhile` returns; gives what the clients saw, and what it returned.
    ///
    /// # Errors
    /// When every request failed: what was measured then is how fast the daemon refuses.
    pub(super) fn during<T>(&self, meanwhile: impl FnOnce() -> T) -> Result<(Load, T), String> {
        let (load, _, result) = self.gaps_during(meanwhile)?;
        Ok((load, result))
    }

    /// The same with every gap that a client saw between two tokens.
    pub(super) fn gaps_during<T>(&self, meanwhile: impl FnOnce() -> T) -> Result<(Load, Gaps, T), String> {
        let over = AtomicBool::new(false);
        let next = AtomicU64::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let clients: Vec<_> =
                (0..self.concurrency).map(|_| scope.spawn(|| self.client(started, &over, &next))).collect();
            let result = meanwhile();
            over.store(true, Ordering::Relaxed);
            let seen =
                clients.into_iter().map(|client| client.join().expect("a client counts failures, it does not panic"));
            let (load, all) = summary(seen.collect(), started.elapsed())?;
            Ok((load, Gaps { began: started, all }, result))
        })
    }

    fn client(&self, began: Instant, over: &AtomicBool, next: &AtomicU64) -> Seen {
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).no_delay(true);
        // A refusal says why in its body.
        let agent = agent.http_status_as_error(false).build().new_agent();
        let mut seen = Seen::default();
        while !over.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            match self.ask(&agent, (began, n), &mut seen) {
                Ok(()) => seen.ok += 1,
                Err(error) => {
                    seen.failed += 1;
                    tracing::warn!(%error, "a request of the bench failed");
                    seen.reason.get_or_insert(error);
                }
            }
        }
        seen
    }

    /// Tokens of answer `n`.
    fn n_tokens(&self, n: u64) -> u32 {
        let spare = if self.ragged { self.max_tokens / 2 } else { 0 };
        // The golden ratio's multiples are spread evenly and neighbours lie far apart.
        let spread = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        self.max_tokens - (spread % u64::from(spare + 1)) as u32
    }

    /// Request `n` of traffic that began then.
    fn ask(&self, agent: &ureq::Agent, (traffic_began, n): (Instant, u64), seen: &mut Seen) -> Result<(), String> {
        let prompt: Vec<_> = (0..self.prompt_words).map(|i| WORDS[(n as usize * 7 + i * i) % WORDS.len()]).collect();
        let body = client::stream_of(&prompt.join(" "), self.n_tokens(n), n, self.trains);
        let asked = Instant::now();
        let url = format!("{}/v1/completions", self.url);
        let mut response = agent.post(url).content_type("application/json").send(&body).map_err(|e| e.to_string())?;
        if !response.status().is_success() {
            let body = response.body_mut().read_to_vec().map_err(|e| e.to_string())?;
            return Err(format!("{}: {}", response.status(), client::refusal(&body)));
        }
        let mut last = None;
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line.map_err(|error| format!("the stream broke: {error}"))?;
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                return Ok(());
            }
            let n_tokens = client::n_tokens(data.as_bytes())?;
            if n_tokens == 0 {
                continue;
            }
            let now = Instant::now();
            match last.replace(now) {
                Some(began) => seen.gaps.push(Gap::new(traffic_began, began, now)),
                None => seen.first_ms.push(now.duration_since(asked).as_secs_f64() * 1e3),
            }
            seen.tokens += n_tokens;
        }
        Err("the stream ended without [DONE]".to_owned())
    }
}

fn summary(all: Vec<Seen>, elapsed: Duration) -> Result<(Load, Vec<Gap>), String> {
    let seconds = elapsed.as_secs_f64();
    let mut sum = Seen::default();
    for seen in all {
        sum.failed += seen.failed;
        sum.ok += seen.ok;
        sum.tokens += seen.tokens;
        sum.first_ms.extend(seen.first_ms);
        sum.gaps.extend(seen.gaps);
        sum.reason = sum.reason.or(seen.reason);
    }
    if let (0, Some(reason)) = (sum.ok, sum.reason) {
        return Err(format!("none of {} requests succeeded; the first failed with {reason}", sum.failed));
    }
    let load = Load {
        requests: sum.ok + sum.failed,
        failed: sum.failed,
        seconds: (seconds * 1000.0).round() / 1000.0,
        output_tokens: sum.tokens,
        output_tokens_per_s: (sum.tokens as f64 / seconds * 10.0).round() / 10.0,
        ttft_ms: Quantiles::of(sum.first_ms),
        itl_ms: Quantiles::of(sum.gaps.iter().map(|gap| gap.ms()).collect()),
    };
    Ok((load, sum.gaps))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    /// Refuses whoever connects until it is told to stop, by one who connects after that.
    fn refuse(listener: &TcpListener, is_over: &AtomicBool) {
        for socket in listener.incoming() {
            let mut reader = BufReader::new(socket.expect("a connection"));
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let head = reader.by_ref().lines().map(|line| line.expect("UTF-8").to_ascii_lowercase());
            let head: Vec<String> = head.take_while(|line| !line.is_empty()).collect();
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            reader.read_exact(&mut vec![0; length.expect("a length")]).expect("a body");
            let body = r#"{"error":{"message":"a valid API key is required"}}"#;
            let head =
                format!("HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            reader.get_mut().write_all((head + body).as_bytes()).expect("written");
        }
    }

    /// Goal: a bench says why nothing could be measured, and gives no numbers then. Method: a server that refuses everybody.
    #[test]
    fn refusals_alone_are_no_measurement() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (url, is_over) = (format!("http://{address}"), AtomicBool::new(false));
        let traffic =
            Traffic { url: &url, concurrency: 2, max_tokens: 4, prompt_words: 2, trains: false, ragged: false };
        let measured = std::thread::scope(|scope| {
            scope.spawn(|| refuse(&listener, &is_over));
            let measured = traffic.during(|| std::thread::sleep(Duration::from_millis(50)));
            is_over.store(true, Ordering::Relaxed);
            std::net::TcpStream::connect(address).expect("a connection");
            measured
        });
        let why = measured.map(drop).expect_err("nobody was answered");
        assert!(why.contains("requests succeeded") && why.contains("401"), "{why}");
        assert!(why.ends_with("a valid API key is required"), "{why}");
    }

    /// Goal: a gap counts for a swap when it has a moment in common with it. Method: gaps before, into, inside, around and after one.
    #[test]
    fn gaps_across_a_time_touch_it() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let gap = |from, to| Gap::new(began, at(from), at(to));
        let all = vec![gap(0, 9), gap(8, 12), gap(13, 14), gap(1, 40), gap(19, 30), gap(21, 30)];
        let gaps = Gaps { began, all };
        assert_eq!(gaps.across(&[(at(10), at(20))]), [4.0, 1.0, 39.0, 11.0]);
        assert_eq!(gaps.across(&[]), [0.0; 0]);
        assert_eq!(gaps.across(&[(at(0), at(1)), (at(29), at(50))]), [9.0, 39.0, 11.0, 9.0]);
    }

    #[test]
    fn failures_beside_answers_are_counted() {
        let seen = |ok, failed, reason: Option<&str>| Seen {
            ok,
            failed,
            reason: reason.map(str::to_owned),
            ..Seen::default()
        };
        let sum = |all| summary(all, Duration::from_secs(1)).map(|(load, _)| (load.requests, load.failed));
        assert_eq!(sum(vec![seen(0, 3, Some("x")), seen(1, 0, None)]), Ok((4, 3)));
        assert_eq!(sum(vec![seen(0, 0, None)]), Ok((0, 0)));
        assert!(
            sum(vec![seen(0, 1, Some("x")), seen(0, 2, Some("y"))])
                .is_err_and(|why| why.contains("of 3") && why.contains("with x"))
        );
    }
}
