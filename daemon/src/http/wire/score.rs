//! `POST /v1/score`, `/score`, `/classify`, `/pooling`: vLLM's shapes.

use policy::chat_template::Message;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    chat::messages,
    error::INVALID_MESSAGES,
    fields::{FieldError, Fields},
    prompt::{self, Prompt},
    scoring::{RESPONSES_MAX, ScoringOptions, texts},
    usage::Usage,
};

/// Pairs of a prompt and a response.
#[derive(Debug)]
pub(crate) struct ScorePairsRequest {
    /// What all scoring routes share.
    pub(crate) options: ScoringOptions,
    /// One for all responses, or as many.
    pub(crate) prompts: Vec<String>,
    /// At least one.
    pub(crate) responses: Vec<String>,
    /// What the client called its responses.
    pub(crate) responses_name: &'static str,
}

impl ScorePairsRequest {
    /// Reads a body: one first text with each of the second ones, or as many of both. vLLM calls them `text_1` and
    /// `text_2`, `queries` and `documents`, or `data_1` and `data_2`.
    pub(crate) fn parse(body: &[u8]) -> Result<ScorePairsRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        let options = ScoringOptions::take(&mut f)?;
        let (prompts_name, prompts) = texts(&mut f, &["text_1", "queries", "data_1"])?;
        let (responses_name, responses) = texts(&mut f, &["text_2", "documents", "data_2"])?;
        match (prompts.len(), responses.len()) {
            (many, n) if many != 1 && many != n => {
                let rule = format!("must hold one text, or as many as `{responses_name}`: {n}, not {many}");
                Err(f.disagrees(prompts_name, &rule))
            }
            // One prompt stays one: with a body full of responses its copies would take gigabytes.
            _ => Ok(ScorePairsRequest { options, prompts, responses, responses_name }),
        }
    }
}

/// What `/classify` and `/pooling` judge: whole texts, prompt and response together.
#[derive(Debug)]
pub(crate) enum WholeInput {
    /// Texts whose special tokens are spelled out, or ids; read to their last token, nothing is added at the end.
    Texts {
        /// At least one, none empty.
        inputs: Vec<Prompt>,
        /// Begin with the token that begins a prompt, where the model wants one and it is not there.
        add_special_tokens: bool,
    },
    /// A conversation that ends with the answer to be judged.
    Chat(Vec<Message>),
}

/// `POST /classify` and `POST /pooling`.
#[derive(Debug)]
pub(crate) struct WholeRequest {
    /// What all scoring routes share.
    pub(crate) options: ScoringOptions,
    /// What is judged.
    pub(crate) input: WholeInput,
}

impl WholeRequest {
    /// Reads a body of `/classify`.
    pub(crate) fn classify(body: &[u8]) -> Result<WholeRequest, FieldError> {
        Self::take(&mut Fields::parse(body)?)
    }

    /// Reads a body of `/pooling`.
    pub(crate) fn pooling(body: &[u8]) -> Result<WholeRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        f.refuse(&["dimensions"])?;
        match f.text("encoding_format", 16)?.as_deref() {
            None | Some("float") => {}
            Some(_) => return Err(f.error("encoding_format", "must be \"float\" in this version of honed")),
        }
        match f.text("task", 32)?.as_deref() {
            None | Some("score" | "classify" | "reward") => {}
            Some(_) => return Err(f.error("task", "must be \"classify\" or \"score\": this is a reward model")),
        }
        Self::take(&mut f)
    }

    fn take(f: &mut Fields) -> Result<WholeRequest, FieldError> {
        f.refuse(&["chat_template", "chat_template_kwargs"])?;
        let options = ScoringOptions::take(f)?;
        let add_special_tokens = f.boolean("add_special_tokens")?.unwrap_or(true);
        f.at_most_one(&["input", "messages"])?;
        if f.has("messages") {
            return Ok(WholeRequest { options, input: WholeInput::Chat(answered(f)?) });
        }
        let inputs = prompt::take_as(f, "input")?;
        Ok(WholeRequest { options, input: WholeInput::Texts { inputs, add_special_tokens } })
    }
}

/// Takes a conversation that ends with the answer to be judged.
pub(crate) fn answered(f: &mut Fields) -> Result<Vec<Message>, FieldError> {
    let conversation = messages(f, "messages")?;
    let rule = "must end with a message of role assistant: that is what is judged";
    match conversation.last().is_some_and(|last| last.role == "assistant") {
        true => Ok(conversation),
        false => Err(f.error("messages", rule).coded(INVALID_MESSAGES)),
    }
}

/// The answer of all three.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScoreList<T> {
    /// Names the request.
    pub(crate) id: String,
    /// `list`.
    pub(crate) object: &'static str,
    /// Seconds since the Unix epoch.
    pub(crate) created: u64,
    /// As the client named it.
    pub(crate) model: String,
    /// Who judged, as in the rollout log.
    pub(crate) reward_version: String,
    /// One for each input, in its order.
    pub(crate) data: Vec<T>,
    /// Tokens that were read.
    pub(crate) usage: Usage,
}

/// An entry of `/score`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScoreEntry {
    /// Which input.
    pub(crate) index: usize,
    /// `score`.
    pub(crate) object: &'static str,
    /// Normalised; larger is better.
    pub(crate) score: f64,
    /// How far the members of an ensemble are apart, in score units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) std: Option<f64>,
}

/// An entry of `/classify`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClassEntry {
    /// Which input.
    pub(crate) index: usize,
    /// A reward model has one label.
    pub(crate) label: &'static str,
    /// The score of the one label: no probability unless the client asked for the activation.
    pub(crate) probs: [f64; 1],
    /// 1.
    pub(crate) num_classes: usize,
    /// How far the members of an ensemble are apart, in score units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) std: Option<f64>,
}

/// An entry of `/pooling`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PoolEntry {
    /// Which input.
    pub(crate) index: usize,
    /// `pooling`.
    pub(crate) object: &'static str,
    /// The score.
    pub(crate) data: [f64; 1],
    /// How far the members of an ensemble are apart, in score units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) std: Option<f64>,
}

const _: () = assert!(prompt::PROMPTS_MAX <= RESPONSES_MAX, "what is read can be judged in one job");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_one_with_each_or_each_with_its_own() {
        let read = |json: &str| {
            let request = ScorePairsRequest::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
            (request.prompts.join(" "), request.responses.join(" "))
        };
        let both = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(read(r#"{"text_1":"a","text_2":"x"}"#), both("a", "x"));
        assert_eq!(read(r#"{"queries":"a","documents":["x","y"]}"#), both("a", "x y"));
        assert_eq!(read(r#"{"queries":["a"],"documents":["x","y"]}"#), both("a", "x y"));
        assert_eq!(read(r#"{"data_1":["a","b"],"data_2":["x","y"]}"#), both("a b", "x y"));
    }

    #[test]
    fn wrong_inputs_are_named() {
        for (param, json) in [
            ("text_1", r#"{}"#),
            ("text_2", r#"{"text_1":"a"}"#),
            ("text_1", r#"{"text_1":["a","b"],"text_2":["x","y","z"]}"#),
            ("text_1", r#"{"text_1":["a","b"],"text_2":"x"}"#),
            ("queries", r#"{"text_1":"a","text_2":"x","queries":[]}"#),
            ("text_2", r#"{"text_1":"a","text_2":[]}"#),
            ("text_2", r#"{"text_1":"a","text_2":[1]}"#),
            ("text_1", r#"{"text_1":{"content":[]},"text_2":"x"}"#),
        ] {
            assert_eq!(
                ScorePairsRequest::parse(json.as_bytes()).expect_err(json).param.as_deref(),
                Some(param),
                "{json}"
            );
        }
        for (param, json) in [
            ("input", r#"{}"#),
            ("input", r#"{"input":[]}"#),
            ("input", r#"{"input":""}"#),
            ("input", r#"{"input":{"a":1}}"#),
            ("messages", r#"{"input":"a","messages":[]}"#),
            ("messages", r#"{"messages":[{"role":"user","content":"a"}]}"#),
            ("encoding_format", r#"{"input":"a","encoding_format":"base64"}"#),
            ("task", r#"{"input":"a","task":"embed"}"#),
            ("dimensions", r#"{"input":"a","dimensions":3}"#),
        ] {
            assert_eq!(WholeRequest::pooling(json.as_bytes()).expect_err(json).param.as_deref(), Some(param), "{json}");
        }
    }
}
