//! `POST /v1/rerank`, `/rerank`: Jina's shape, and TEI's where the client sends `texts`. `POST /predict`: TEI's.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    fields::{FieldError, Fields, kind},
    scoring::{RESPONSES_MAX, ScoringOptions},
    usage::Usage,
};

/// Responses to one prompt, to be put in order.
#[derive(Debug)]
pub(crate) struct RerankRequest {
    /// What all scoring routes share.
    pub(crate) options: ScoringOptions,
    /// The prompt.
    pub(crate) query: String,
    /// The responses.
    pub(crate) documents: Vec<String>,
    /// The answer is TEI's plain list.
    pub(crate) is_tei: bool,
    /// Only so many of the best; `None` is all.
    pub(crate) top_n: Option<usize>,
    /// Repeat the texts.
    pub(crate) return_documents: bool,
}

impl RerankRequest {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8]) -> Result<RerankRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        let options = ScoringOptions::take(&mut f)?;
        let query = f.text("query", usize::MAX)?.ok_or_else(|| f.error("query", "is required"))?;
        f.at_most_one(&["documents", "texts"])?;
        let is_tei = f.has("texts");
        let name = if is_tei { "texts" } else { "documents" };
        let top_n = f.count("top_n", 0..=i32::MAX as u32)?.filter(|n| *n > 0);
        let return_documents = f.boolean("return_documents")?.or(f.boolean("return_text")?).unwrap_or(false);
        Ok(RerankRequest {
            documents: documents(&mut f, name)?,
            options,
            query,
            is_tei,
            top_n: top_n.map(|n| n as usize),
            return_documents,
        })
    }
}

/// Texts, or Jina's objects with a `text`.
fn documents(f: &mut Fields, name: &'static str) -> Result<Vec<String>, FieldError> {
    let list = f.list(name, RESPONSES_MAX)?.ok_or_else(|| f.error(name, "is required"))?;
    if list.is_empty() {
        return Err(f.error(name, "must not be empty"));
    }
    let text = |(i, value)| match value {
        Value::String(text) => Ok(text),
        Value::Object(_) => {
            let mut document = Fields::of(value, &format!("{name}[{i}]"))?;
            document.text("text", usize::MAX)?.ok_or_else(|| document.error("text", "is required"))
        }
        other => Err(f.error(name, &format!("must hold texts, not {}", kind(&other)))),
    };
    list.into_iter().enumerate().map(text).collect()
}

/// Jina's answer, best first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ranking {
    /// Names the request.
    pub(crate) id: String,
    /// `list`.
    pub(crate) object: &'static str,
    /// As the client named it.
    pub(crate) model: String,
    /// Who judged, as in the rollout log.
    pub(crate) reward_version: String,
    /// Best first.
    pub(crate) results: Vec<Ranked>,
    /// Tokens that were read.
    pub(crate) usage: Usage,
}

/// One of its entries.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ranked {
    /// Which document.
    pub(crate) index: usize,
    /// Normalised; larger is better.
    pub(crate) relevance_score: f64,
    /// How far the members of an ensemble are apart, in score units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) std: Option<f64>,
    /// The text, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<Document>,
}

/// A document as Jina returns it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Document {
    /// As it came.
    pub(crate) text: String,
}

/// An entry of TEI's list, best first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiRanked {
    /// Which text.
    pub(crate) index: usize,
    /// Normalised; larger is better.
    pub(crate) score: f64,
    /// The text, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
}

/// What `/predict` judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sequence {
    /// Prompt and response in one text, special tokens spelled out.
    Whole(String),
    /// A prompt and its response.
    Pair(String, String),
}

/// `POST /predict`.
#[derive(Debug)]
pub(crate) struct PredictRequest {
    /// What all scoring routes share.
    pub(crate) options: ScoringOptions,
    /// At least one.
    pub(crate) inputs: Vec<Sequence>,
    /// The answer is a list for each, not one list.
    pub(crate) is_batch: bool,
}

impl PredictRequest {
    /// Reads a body: `"text"`, `["prompt","response"]`, or a list of such lists.
    pub(crate) fn parse(body: &[u8]) -> Result<PredictRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        let options = ScoringOptions::take(&mut f)?;
        let inputs = f.required("inputs")?;
        let is_batch = inputs.as_array().is_some_and(|list| list.iter().any(Value::is_array));
        let list = match inputs {
            Value::Array(list) if is_batch => list,
            one => vec![one],
        };
        if list.len() > RESPONSES_MAX {
            return Err(f.error("inputs", &format!("must have at most {RESPONSES_MAX} elements, not {}", list.len())));
        }
        let inputs = list.into_iter().map(|value| sequence(&f, value)).collect::<Result<_, _>>()?;
        Ok(PredictRequest { options, inputs, is_batch })
    }
}

fn sequence(f: &Fields, value: Value) -> Result<Sequence, FieldError> {
    let wrong = || f.error("inputs", "must be a text, a list of one or two texts, or a list of such lists; none empty");
    let text = |value: Value| match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        _ => Err(wrong()),
    };
    let mut parts = match value {
        Value::Array(parts) => parts.into_iter(),
        one => vec![one].into_iter(),
    };
    match (parts.next(), parts.next(), parts.next()) {
        (Some(whole), None, None) => Ok(Sequence::Whole(text(whole)?)),
        (Some(prompt), Some(response), None) => Ok(Sequence::Pair(text(prompt)?, text(response)?)),
        _ => Err(wrong()),
    }
}

/// TEI's answer for one input is a list of these, one for each label.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Prediction {
    /// Normalised; larger is better.
    pub(crate) score: f64,
    /// A reward model has one label.
    pub(crate) label: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_inputs_are_read() {
        let read = |json: &str| {
            let request = PredictRequest::parse(format!(r#"{{"inputs":{json}}}"#).as_bytes());
            request.map(|r| (r.inputs, r.is_batch)).unwrap_or_else(|e| panic!("{json}: {e:?}"))
        };
        let whole = |text: &str| Sequence::Whole(text.to_owned());
        let pair = |a: &str, b: &str| Sequence::Pair(a.to_owned(), b.to_owned());
        assert_eq!(read(r#""a""#), (vec![whole("a")], false));
        assert_eq!(read(r#"["a"]"#), (vec![whole("a")], false));
        assert_eq!(read(r#"["a","b"]"#), (vec![pair("a", "b")], false));
        assert_eq!(read(r#"[["a"],["b","c"],"d"]"#), (vec![whole("a"), pair("b", "c"), whole("d")], true));
    }

    #[test]
    fn wrong_inputs_are_named() {
        for json in
            ["null", "[]", "\"\"", "5", "{}", "[1]", "[\"a\",\"b\",\"c\"]", "[[]]", "[[\"a\",1]]", "[[\"a\"],5]"]
        {
            let error = PredictRequest::parse(format!(r#"{{"inputs":{json}}}"#).as_bytes()).expect_err(json);
            assert_eq!(error.param.as_deref(), Some("inputs"), "{json}");
        }
        for (param, json) in [
            ("query", r#"{"documents":["a"]}"#),
            ("documents", r#"{"query":"q"}"#),
            ("documents", r#"{"query":"q","documents":[]}"#),
            ("documents", r#"{"query":"q","documents":"a"}"#),
            ("documents", r#"{"query":"q","documents":[1]}"#),
            ("documents[0].text", r#"{"query":"q","documents":[{}]}"#),
            ("texts", r#"{"query":"q","texts":[]}"#),
            ("top_n", r#"{"query":"q","documents":["a"],"top_n":-1}"#),
        ] {
            assert_eq!(RerankRequest::parse(json.as_bytes()).expect_err(json).param.as_deref(), Some(param), "{json}");
        }
    }
}
