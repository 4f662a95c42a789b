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
}

/// Between two tokens of one stream.
#[derive(Clone, Copy)]
pub(super) struct Gap {
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

impl Gap {
    pub(super) fn ms(self) -> f64 {
        self.ended.duration_since(self.began).as_secs_f64() * 1e3
    }
}

impl Traffic<'_> {
    /// Asks until `meanwhile` returns; gives what the clients saw, and what it returned.
    pub(super) fn during<T>(&self, meanwhile: impl FnOnce() -> T) -> (Load, T) {
        let (load, _, result) = self.gaps_during(meanwhile);
        (load, result)
    }

    /// The same with every gap that a client saw between two tokens.
    pub(super) fn gaps_during<T>(&self, meanwhile: impl FnOnce() -> T) -> (Load, Vec<Gap>, T) {
        let over = AtomicBool::new(false);
        let next = AtomicU64::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..self.concurrency).map(|_| scope.spawn(|| self.client(&over, &next))).collect();
            let result = meanwhile();
            over.store(true, Ordering::Relaxed);
            let seen =
                clients.into_iter().map(|client| client.join().expect("a client counts failures, it does not panic"));
            let (load, gaps) = summary(seen.collect(), started.elapsed());
            (load, gaps, result)
        })
    }

    fn client(&self, over: &AtomicBool, next: &AtomicU64) -> Seen {
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).no_delay(true).build().new_agent();
        let mut seen = Seen::default();
        while !over.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            match self.ask(&agent, n, &mut seen) {
                Ok(()) => seen.ok += 1,
                Err(error) => {
                    seen.failed += 1;
                    tracing::warn!(%error, "a request of the bench failed");
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

    fn ask(&self, agent: &ureq::Agent, n: u64, seen: &mut Seen) -> Result<(), String> {
        let prompt: Vec<_> = (0..self.prompt_words).map(|i| WORDS[(n as usize * 7 + i * i) % WORDS.len()]).collect();
        let body = client::stream_of(&prompt.join(" "), self.n_tokens(n), n, self.trains);
        let asked = Instant::now();
        let url = format!("{}/v1/completions", self.url);
        let mut response = agent.post(url).content_type("application/json").send(&body).map_err(|e| e.to_string())?;
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
                Some(began) => seen.gaps.push(Gap { began, ended: now }),
                None => seen.first_ms.push(now.duration_since(asked).as_secs_f64() * 1e3),
            }
            seen.tokens += n_tokens;
        }
        Err("the stream ended without [DONE]".to_owned())
    }
}

fn summary(all: Vec<Seen>, elapsed: Duration) -> (Load, Vec<Gap>) {
    let seconds = elapsed.as_secs_f64();
    let mut sum = Seen::default();
    for seen in all {
        sum.failed += seen.failed;
        sum.ok += seen.ok;
        sum.tokens += seen.tokens;
        sum.first_ms.extend(seen.first_ms);
        sum.gaps.extend(seen.gaps);
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
    (load, sum.gaps)
}
