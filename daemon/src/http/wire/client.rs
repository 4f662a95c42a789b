//! The other end of the wire: what a client of honed sends and reads. The demo and the bench are such clients.
//!
//! Only the fields that they use are read; everything is optional, so that a proxy's extras do no harm.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    /// `policy`, `policy@N` or `sft`.
    pub(crate) model: &'a str,
    /// The instruction.
    pub(crate) text: &'a str,
    /// As a chat message, or as plain text to be continued.
    pub(crate) chat: bool,
    /// Whether tokens come as they are drawn.
    pub(crate) stream: bool,
    /// Choices.
    pub(crate) n: u32,
    /// Tokens at most.
    pub(crate) max_tokens: u32,
    /// Seed of the draw.
    pub(crate) seed: Option<u64>,
    /// Whether the exchange may be learnt from.
    pub(crate) store: bool,
    /// Who asks.
    pub(crate) user: &'a str,
}

impl Ask<'_> {
    /// The route.
    pub(crate) fn route(&self) -> &'static str {
        if self.chat { "/v1/chat/completions" } else { "/v1/completions" }
    }

    /// The body.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = json!({
            "model": self.model,
            "stream": self.stream,
            "n": self.n,
            "max_tokens": self.max_tokens,
            "temperature": 1.0,
            "store": self.store,
            "user": self.user,
        });
        let prompt = if self.chat {
            ("messages", json!([{"role": "user", "content": self.text}]))
        } else {
            ("prompt", json!(format!("{}\n", self.text)))
        };
        body[prompt.0] = prompt.1;
        if let Some(seed) = self.seed {
            body["seed"] = json!(seed);
        }
        body.to_string().into_bytes()
    }
}

/// The body of a streamed completion with token ids to count. One that `trains` is logged and ends when the model says so;
/// else it never ends by itself and is not logged, so that the work is the same for every run.
pub(crate) fn stream_of(prompt: &str, max_tokens: u32, seed: u64, trains: bool) -> Vec<u8> {
    json!({
        "prompt": prompt,
        "max_tokens": max_tokens,
        "seed": seed,
        "ignore_eos": !trains,
        "stream": true,
        "store": trains,
        "return_token_ids": true,
    })
    .to_string()
    .into_bytes()
}

/// Tokens in one chunk of such a stream.
pub(crate) fn n_tokens(chunk: &[u8]) -> Result<u64, String> {
    let value: Value = serde_json::from_slice(chunk).map_err(|error| format!("not JSON: {error}"))?;
    if let Some(error) = value.get("error") {
        return Err(error.to_string());
    }
    let ids = |choice: &Value| choice["token_ids"].as_array().map_or(0, Vec::len) as u64;
    Ok(value["choices"].as_array().map_or(0, |choices| choices.iter().map(ids).sum()))
}

/// A whole answer or one chunk of a stream, from either route.
#[derive(Debug, Deserialize)]
pub(crate) struct Piece {
    /// `policy@N`.
    pub(crate) system_fingerprint: Option<String>,
    /// Parts of responses.
    #[serde(default)]
    pub(crate) choices: Vec<PieceChoice>,
}

/// A part of one response.
#[derive(Debug, Deserialize)]
pub(crate) struct PieceChoice {
    /// Which response.
    pub(crate) index: usize,
    text: Option<String>,
    message: Option<Content>,
    delta: Option<Content>,
    /// `stop`, `length`, or nothing yet.
    pub(crate) finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Content {
    content: Option<String>,
}

impl PieceChoice {
    /// Its text, wherever the route puts it.
    pub(crate) fn text(&self) -> &str {
        let nested = self.message.as_ref().or(self.delta.as_ref()).and_then(|c| c.content.as_deref());
        self.text.as_deref().or(nested).unwrap_or_default()
    }
}

/// Reads an answer or a chunk; an error object inside a stream is an error.
pub(crate) fn piece(body: &[u8]) -> Result<Piece, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
    match value.get("error") {
        Some(error) => Err(error.to_string()),
        None => serde_json::from_value(value).map_err(|error| format!("not a completion: {error}")),
    }
}

/// The body of `POST /v1/rewards` for chat exchanges.
pub(crate) fn rewards_body(exchanges: &[(&str, &str)]) -> Vec<u8> {
    let input: Vec<Value> = exchanges
        .iter()
        .map(|(prompt, answer)| {
            json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]})
        })
        .collect();
    json!({"model": "reward", "input": input}).to_string().into_bytes()
}

/// The scores of `POST /v1/rewards`, in the order of its input.
pub(crate) fn rewards(body: &[u8]) -> Result<Vec<f64>, String> {
    #[derive(Deserialize)]
    struct Reply {
        data: Vec<Scored>,
    }
    #[derive(Deserialize)]
    struct Scored {
        index: usize,
        score: f64,
    }
    let mut reply: Reply = serde_json::from_slice(body).map_err(|error| format!("not rewards: {error}"))?;
    reply.data.sort_by_key(|scored| scored.index);
    Ok(reply.data.into_iter().map(|scored| scored.score).collect())
}

/// One version as `GET /v1/policies` shows it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct VersionRow {
    /// Its number.
    pub(crate) version: u64,
    /// `live`, `retained`, …
    pub(crate) state: String,
    /// What the update and the gate measured.
    #[serde(default)]
    pub(crate) numbers: BTreeMap<String, f64>,
}

/// The versions of `GET /v1/policies`, oldest first, and which one is live.
pub(crate) fn versions(body: &[u8]) -> Result<(u64, Vec<VersionRow>), String> {
    #[derive(Deserialize)]
    struct Reply {
        live: u64,
        data: Vec<VersionRow>,
    }
    let mut reply: Reply = serde_json::from_slice(body).map_err(|error| format!("not a list of policies: {error}"))?;
    reply.data.sort_by_key(|row| row.version);
    Ok((reply.live, reply.data))
}

/// What an answer other than success says, for people.
pub(crate) fn refusal(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let message = value.as_ref().and_then(|value| value.get("error")?.get("message")?.as_str());
    message.unwrap_or("it gives no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_routes_and_both_modes_are_read() {
        let read = |json: &str| piece(json.as_bytes()).map(|piece| piece.choices[0].text().to_owned());
        assert_eq!(read(r#"{"choices":[{"index":0,"text":"a","finish_reason":null}]}"#), Ok("a".into()));
        assert_eq!(read(r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"b"}}]}"#), Ok("b".into()));
        assert_eq!(read(r#"{"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#), Ok(String::new()));
        assert!(read(r#"{"error":{"message":"full"}}"#).is_err_and(|error| error.contains("full")));
    }

    #[test]
    fn rewards_come_back_in_order() {
        let body = br#"{"data":[{"index":1,"score":2.0},{"index":0,"score":-1.0}]}"#;
        assert_eq!(rewards(body), Ok(vec![-1.0, 2.0]));
    }
}

/// What a bench reads of `GET /v1/training`.
#[derive(Debug, Deserialize)]
pub(crate) struct TrainingStatus {
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) updates: u64,
}

/// Reads the answer of `GET /v1/training`.
pub(crate) fn training(body: &[u8]) -> Result<TrainingStatus, String> {
    serde_json::from_slice(body).map_err(|error| format!("the answer of /v1/training: {error}"))
}
