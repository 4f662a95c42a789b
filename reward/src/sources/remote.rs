//! A reward server over HTTP, in the shape of OpenRLHF's `--remote_rm_url`.
//!
//! We post `{"query":[prompt and response],"prompts":[…],"labels":[…]}` and read `{"rewards":[…]}`, or `"scores"` where
//! there are no rewards. The texts hold special tokens, since the server tokenises them again and must see the end token.
//! Whatever is not one finite number per query is an error: peers answered 0.0 in its place, and their policies learnt it.
//!
//! Failures that may pass (no connection, timeout, 408, 429, 5xx) are tried again after a pause that doubles from
//! `PAUSE_MIN` to `PAUSE_MAX`, with jitter so that many daemons do not return to a recovering server at once. This
//! is the one file of the crate that knows JSON. The server is a neighbour: no TLS, no proxy, no redirects.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::Ordering,
    time::Duration,
};

use serde_json::{Value, json};
use ureq::Agent;

use crate::{
    score::ScoreError,
    scorer::{Counters, ScoreRequest},
};

/// First pause between two calls.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause between two calls.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Bytes that an answer may have beside its numbers: servers add logs.
const ANSWER_BYTES: u64 = 1 << 20;
/// Bytes that an answer may have per query.
const ANSWER_BYTES_PER_QUERY: u64 = 256;

/// A client of one reward server.
pub(crate) struct RemoteSource {
    agent: Agent,
    url: String,
    n_retries: u32,
}

/// Why one call gave nothing, and whether another may.
struct Failure {
    cause: String,
    may_pass: bool,
}

impl RemoteSource {
    pub(crate) fn new(reward: &config::Reward) -> RemoteSource {
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(reward.remote_timeout_ms)))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("honed/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        RemoteSource { agent, url: reward.remote_url.clone(), n_retries: reward.remote_retries }
    }

    /// One outcome per item. `pause` sleeps for the given time and says whether to go on: false ends the tries at once.
    pub(crate) fn score(
        &self,
        items: &[&ScoreRequest],
        counters: &Counters,
        pause: &dyn Fn(Duration) -> bool,
    ) -> Vec<Result<f64, ScoreError>> {
        let body = request_body(items);
        let mut n_calls = 0;
        loop {
            counters.remote_calls.fetch_add(1, Ordering::Relaxed);
            n_calls += 1;
            let failure = match self.call(&body, items.len()) {
                Ok(scores) => return scores,
                Err(failure) => failure,
            };
            counters.remote_failures.fetch_add(1, Ordering::Relaxed);
            let cause = failure.cause;
            let is_last = !failure.may_pass || n_calls > self.n_retries;
            tracing::warn!(cause, n_calls, n_items = items.len(), "the reward server failed");
            if is_last || !pause(backoff(n_calls - 1)) {
                return vec![Err(ScoreError::Remote(cause)); items.len()];
            }
        }
    }

    fn call(&self, body: &[u8], n_items: usize) -> Result<Vec<Result<f64, ScoreError>>, Failure> {
        let may_pass = |error: ureq::Error| {
            // An answer beyond its bound would be as long the next time.
            let may_pass = !matches!(error, ureq::Error::BodyExceedsLimit(_) | ureq::Error::BadUri(_));
            Failure { cause: error.to_string(), may_pass }
        };
        let request = self.agent.post(&self.url).header("content-type", "application/json");
        let mut response = request.send(body).map_err(may_pass)?;
        let status = response.status().as_u16();
        let limit = ANSWER_BYTES + ANSWER_BYTES_PER_QUERY * n_items as u64;
        let answer = response.body_mut().with_config().limit(limit).read_to_vec().map_err(may_pass)?;
        if status != 200 {
            let may_pass = status >= 500 || matches!(status, 408 | 429);
            return Err(Failure { cause: format!("HTTP status {status}{}", size(&answer)), may_pass });
        }
        parse_answer(&answer, n_items).map_err(|cause| Failure { cause, may_pass: false })
    }
}

fn request_body(items: &[&ScoreRequest]) -> Vec<u8> {
    let texts = |text: fn(&ScoreRequest) -> String| items.iter().map(|item| text(item)).collect::<Vec<_>>();
    let body = json!({
        "query": texts(|item| format!("{}{}", item.prompt_text, item.response_text)),
        "prompts": texts(|item| item.prompt_text.clone()),
        // Reference answers, which live traffic does not have; OpenRLHF sends empty strings too.
        "labels": texts(|_| String::new()),
    });
    body.to_string().into_bytes()
}

/// One outcome per query; an entry that is no finite number fails alone, an answer of another shape fails whole.
fn parse_answer(answer: &[u8], n_items: usize) -> Result<Vec<Result<f64, ScoreError>>, String> {
    let wrong = |what: &str| format!("{what}{}", size(answer));
    let answer_json: Value = serde_json::from_slice(answer).map_err(|_| wrong("the answer is not JSON"))?;
    let present = |name: &str| answer_json.get(name).filter(|value| !value.is_null());
    let numbers = present("rewards").or_else(|| present("scores")).and_then(Value::as_array);
    let numbers = numbers.ok_or_else(|| wrong("the answer has no array `rewards`"))?;
    if numbers.len() != n_items {
        return Err(format!("expected {n_items} rewards, got {}", numbers.len()));
    }
    let score = |number: &Value| match number.as_f64() {
        Some(score) => ScoreError::check("remote", score),
        None => Err(ScoreError::NonFinite { origin: "remote", got: kind(number).to_owned() }),
    };
    Ok(numbers.iter().map(score).collect())
}

/// How long an unusable answer is, for the log. What it says is for those alone who ask for it with `RUST_LOG=honed::text=trace`:
/// servers echo what they were sent when they fail, and that is what people wrote.
fn size(answer: &[u8]) -> String {
    let text = || String::from_utf8_lossy(answer).chars().take(200).collect::<String>();
    tracing::trace!(target: "honed::text", text = text(), "what the reward server answered");
    if answer.is_empty() {
        String::new()
    } else {
        format!(" ({} bytes; RUST_LOG=honed::text=trace shows them)", answer.len())
    }
}

/// What stands in a number's place, without its text.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number out of range",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The pause after failed call number `n`, counted from 0: half of it fixed, half of it chance.
fn backoff(n: u32) -> Duration {
    let full = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(n)).min(PAUSE_MAX);
    // Chance that no result depends on needs no seed: the standard library's own random keys will do.
    let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    full.mul_f64(0.5 + 0.5 * chance)
}

#[cfg(test)]
mod tests;
