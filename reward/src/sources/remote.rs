//! A reward server over HTTP, in the shape of OpenRLHF's `--remote_rm_url`.
//!
//! We post `{"query":[prompt and response],"prompts":[…],"labels":[…]}` and read `{"rewards":[…]}`, or `"scores"` where
//! there are no rewards. The texts hold special tokens, since the server tokenises them again and must see the end token.
//! Whatever is not one finite number per query is an error: peers answered 0.0 in its place, and their policies learnt it.
//!
//! Failures that may pass (no connection, timeout, 408, 429, 5xx) are tried again after a pause that doubles from
//! `PAUSE_MIN` to `PAUSE_MAX`, with jitter so that many daemons do not return to a recovering server at once.
//!
//! A batch that the server answers with an error may hold one text that it cannot take: one that is too long for its model is
//! a 400, a 413 or a 500 to servers, for all texts of the call. So its texts are asked about one by one, and those that get no
//! score fail alone. A text that is then refused with a 4xx is refused for good, if another one was judged: a server that
//! refuses all of them has moved, or speaks another language since its last update, and says nothing about any.
//!
//! This is the one file of the crate that knows JSON. The server is a neighbour: no TLS, no proxy, no redirects.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicBool, Ordering},
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
    /// Whether the batch before was judged, at least in part.
    has_judged: AtomicBool,
}

/// Why one call gave nothing.
#[derive(Clone, Debug)]
struct Failure {
    cause: String,
    /// Another call may give something.
    may_pass: bool,
    answer: Answer,
}

/// What came back instead of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing, or that the server is busy: whatever was asked.
    Nothing,
    /// This status, which may be about what was asked.
    Status(u16),
    /// Something that is no list of scores.
    Unusable,
}

impl Failure {
    fn unusable(cause: String) -> Failure {
        Failure { cause, may_pass: false, answer: Answer::Unusable }
    }

    /// The scorer ended first.
    fn stopped() -> Failure {
        Failure { cause: ScoreError::Closing.to_string(), may_pass: true, answer: Answer::Nothing }
    }

    fn status(status: u16, answer: &[u8]) -> Failure {
        let is_busy = matches!(status, 408 | 429 | 503);
        Failure {
            cause: format!("HTTP status {status}{}", size(answer)),
            may_pass: status >= 500 || is_busy,
            answer: if is_busy { Answer::Nothing } else { Answer::Status(status) },
        }
    }

    /// What is said of a text that was asked about alone.
    fn of_text(self, judges_others: bool) -> ScoreError {
        match self.answer {
            Answer::Status(status @ 400..=499) if judges_others => ScoreError::Refused { status },
            _ => ScoreError::Remote(self.cause),
        }
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Failure {
        let cause = error.to_string();
        match error {
            // An answer beyond its bound would be as long the next time.
            ureq::Error::BodyExceedsLimit(_) => Failure::unusable(cause),
            ureq::Error::BadUri(_) => Failure { cause, may_pass: false, answer: Answer::Nothing },
            _ => Failure { cause, may_pass: true, answer: Answer::Nothing },
        }
    }
}

/// One outcome for each text of a call.
type Scores = Vec<Result<f64, ScoreError>>;

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
        let (url, n_retries) = (reward.remote_url.clone(), reward.remote_retries);
        RemoteSource { agent, url, n_retries, has_judged: AtomicBool::new(false) }
    }

    /// One outcome per item. `pause` sleeps for the given time and says whether to go on: false ends the tries at once.
    pub(crate) fn score(
        &self,
        items: &[&ScoreRequest],
        counters: &Counters,
        pause: &dyn Fn(Duration) -> bool,
    ) -> Scores {
        let had_judged = self.has_judged.swap(false, Ordering::Relaxed);
        let scores = match self.tries(items, self.n_retries, counters, pause) {
            Ok(scores) => scores,
            Err(failure) if items.len() > 1 && failure.answer != Answer::Nothing => {
                self.one_by_one(items, counters, pause)
            }
            Err(failure) if items.len() == 1 => vec![Err(failure.of_text(had_judged))],
            Err(failure) => vec![Err(ScoreError::Remote(failure.cause)); items.len()],
        };
        self.has_judged.store(scores.iter().any(Result::is_ok), Ordering::Relaxed);
        scores
    }

    /// The batch is tried already, so each text is tried once; where the server is busy or gone, the others are not asked about.
    fn one_by_one(&self, items: &[&ScoreRequest], counters: &Counters, pause: &dyn Fn(Duration) -> bool) -> Scores {
        let mut found: Vec<Result<Result<f64, ScoreError>, Failure>> = Vec::with_capacity(items.len());
        for item in items {
            let before = found.last().and_then(|outcome| outcome.as_ref().err());
            let gone = before.filter(|failure| failure.answer == Answer::Nothing).cloned();
            found.push(match gone {
                Some(failure) => Err(failure),
                None if !pause(Duration::ZERO) => Err(Failure::stopped()),
                None => self.tries(&[item], 0, counters, pause).map(|mut scores| scores.remove(0)),
            });
        }
        let judges_others = found.iter().any(|outcome| matches!(outcome, Ok(Ok(_))));
        found.into_iter().map(|outcome| outcome.unwrap_or_else(|failure| Err(failure.of_text(judges_others)))).collect()
    }

    /// Calls until there is an answer that will not change, or there were enough calls.
    fn tries(
        &self,
        items: &[&ScoreRequest],
        n_retries: u32,
        counters: &Counters,
        pause: &dyn Fn(Duration) -> bool,
    ) -> Result<Scores, Failure> {
        let body = request_body(items);
        let mut n_calls = 0;
        loop {
            counters.remote_calls.fetch_add(1, Ordering::Relaxed);
            n_calls += 1;
            let failure = match self.call(&body, items.len()) {
                Ok(scores) => return Ok(scores),
                Err(failure) => failure,
            };
            counters.remote_failures.fetch_add(1, Ordering::Relaxed);
            let is_last = !failure.may_pass || n_calls > n_retries;
            tracing::warn!(cause = failure.cause, n_calls, n_items = items.len(), "the reward server failed");
            if is_last || !pause(backoff(n_calls - 1)) {
                return Err(failure);
            }
        }
    }

    fn call(&self, body: &[u8], n_items: usize) -> Result<Scores, Failure> {
        let request = self.agent.post(&self.url).header("content-type", "application/json");
        let mut response = request.send(body)?;
        let status = response.status().as_u16();
        let limit = ANSWER_BYTES + ANSWER_BYTES_PER_QUERY * n_items as u64;
        let answer = response.body_mut().with_config().limit(limit).read_to_vec()?;
        match status {
            200 => parse_answer(&answer, n_items).map_err(Failure::unusable),
            _ => Err(Failure::status(status, &answer)),
        }
    }
}

fn request_body(items: &[&ScoreRequest]) -> Vec<u8> {
    let texts = |text: fn(&ScoreRequest) -> String| items.iter().map(|item| text(item)).collect::<Vec<_>>();
    let body = json!({
        "query": texts(|item| format!("{}{}", item.prompt_text, item.response_text)),
        "prompts": texts(|item| item.prompt_text.to_string()),
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
