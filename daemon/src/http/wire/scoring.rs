//! What the scoring routes share: which model, what becomes of an over-long input, raw scores or squashed ones.

use super::{
    fields::{FieldError, Fields},
    sampling::NAME_CHARS_MAX,
};

/// Responses in one scoring request at most.
pub(crate) const RESPONSES_MAX: usize = 4096;
/// A reward model has one label, which no file names; Hugging Face's configurations call a nameless one so.
pub(crate) const LABEL: &str = "LABEL_0";

/// Fields of vLLM, SGLang, Jina and Cohere that would change scores and are not built.
const NOT_BUILT: &[&str] = &[
    "apply_softmax",
    "instruction",
    "item_first",
    "label_token_ids",
    "max_chunks_per_doc",
    "max_tokens_per_doc",
    "normalize",
    "rank_fields",
    "softmax",
];

/// Which end an over-long input keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The end, where the score is read. The default; peers call it truncation on the left.
    End,
    /// The beginning.
    Beginning,
}

/// How an over-long input is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Tokens that stay; `None` is as many as the reward model reads.
    pub(crate) tokens_max: Option<usize>,
    /// Which of them.
    pub(crate) keep: Keep,
}

/// Fields that every scoring route has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScoringOptions {
    /// `reward`, `reward@…`, or nothing.
    pub(crate) model: Option<String>,
    /// `None` refuses what is over-long.
    pub(crate) cut: Option<Cut>,
    /// Map scores through 1 / (1 + e^−x) into 0..1. Only when the client says so: a reward model's scores are differences.
    pub(crate) squash: bool,
}

impl ScoringOptions {
    /// Takes them out. `use_activation` and `activation` are vLLM's, `raw_scores` is TEI's.
    pub(crate) fn take(f: &mut Fields) -> Result<ScoringOptions, FieldError> {
        f.refuse(NOT_BUILT)?;
        let squash = f.boolean("use_activation")?.or(f.boolean("activation")?);
        let raw = f.boolean("raw_scores")?;
        Ok(ScoringOptions {
            model: f.text("model", NAME_CHARS_MAX)?,
            cut: cut(f)?,
            squash: squash.or(raw.map(|raw| !raw)).unwrap_or(false),
        })
    }
}

/// `truncate` and `truncation_direction` are TEI's, `truncate_prompt_tokens` and `truncation_side` vLLM's.
fn cut(f: &mut Fields) -> Result<Option<Cut>, FieldError> {
    let truncate = f.boolean("truncate")?.unwrap_or(false);
    let tokens = f.integer("truncate_prompt_tokens", -1..=i64::from(i32::MAX))?;
    if tokens == Some(0) {
        return Err(f.error("truncate_prompt_tokens", "must be -1 (as many as the model reads) or at least 1"));
    }
    let (side, direction) = (keep(f, "truncation_side")?, keep(f, "truncation_direction")?);
    let keep = side.or(direction).unwrap_or(Keep::End);
    let tokens_max = tokens.and_then(|tokens| usize::try_from(tokens).ok());
    Ok((truncate || tokens.is_some()).then_some(Cut { tokens_max, keep }))
}

fn keep(f: &mut Fields, name: &str) -> Result<Option<Keep>, FieldError> {
    match f.text(name, NAME_CHARS_MAX)?.as_deref() {
        None => Ok(None),
        // TEI's clients write it with a capital letter.
        Some("left" | "Left") => Ok(Some(Keep::End)),
        Some("right" | "Right") => Ok(Some(Keep::Beginning)),
        Some(_) => Err(f.error(name, "must be \"left\" or \"right\"")),
    }
}

/// Takes what stands under one of several names: one text, or at least one and at most [`RESPONSES_MAX`].
pub(crate) fn texts(f: &mut Fields, names: &[&'static str]) -> Result<(&'static str, Vec<String>), FieldError> {
    f.at_most_one(names)?;
    let name = names.iter().copied().find(|name| f.has(name)).unwrap_or(names[0]);
    let texts = f.texts(name, RESPONSES_MAX)?.ok_or_else(|| f.error(name, "is required"))?;
    match texts.is_empty() || texts.iter().any(String::is_empty) {
        true => Err(f.error(name, "must hold texts that are not empty")),
        false => Ok((name, texts)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: &str) -> Result<ScoringOptions, FieldError> {
        ScoringOptions::take(&mut Fields::parse(json.as_bytes())?)
    }

    #[test]
    fn both_peers_say_how_to_cut_and_nothing_is_cut_unasked() {
        let cut = |json| options(json).unwrap_or_else(|e| panic!("{e:?}")).cut;
        let end = |tokens_max| Some(Cut { tokens_max, keep: Keep::End });
        assert_eq!(cut("{}"), None);
        assert_eq!(cut(r#"{"apply_softmax":false,"normalize":null}"#), None);
        assert_eq!(cut(r#"{"truncate":false,"truncation_direction":"right"}"#), None);
        assert_eq!(cut(r#"{"truncate":true}"#), end(None));
        assert_eq!(cut(r#"{"truncate_prompt_tokens":-1}"#), end(None));
        assert_eq!(cut(r#"{"truncate_prompt_tokens":7,"truncation_side":"left"}"#), end(Some(7)));
        let beginning = Some(Cut { tokens_max: None, keep: Keep::Beginning });
        assert_eq!(cut(r#"{"truncate":true,"truncation_direction":"Right"}"#), beginning);
    }

    #[test]
    fn scores_are_raw_unless_a_client_says_otherwise() {
        let squash = |json| options(json).unwrap_or_else(|e| panic!("{e:?}")).squash;
        assert!(!squash("{}") && !squash(r#"{"raw_scores":true}"#) && !squash(r#"{"use_activation":false}"#));
        assert!(squash(r#"{"raw_scores":false}"#) && squash(r#"{"activation":true}"#));
    }

    #[test]
    fn wrong_options_are_named() {
        for (param, json) in [
            ("truncate", r#"{"truncate":1}"#),
            ("truncate_prompt_tokens", r#"{"truncate_prompt_tokens":0}"#),
            ("truncate_prompt_tokens", r#"{"truncate_prompt_tokens":-2}"#),
            ("truncation_side", r#"{"truncation_side":"middle"}"#),
            ("raw_scores", r#"{"raw_scores":"no"}"#),
            ("model", r#"{"model":1}"#),
            ("instruction", r#"{"instruction":"be strict"}"#),
            ("max_tokens_per_doc", r#"{"max_tokens_per_doc":64}"#),
            ("apply_softmax", r#"{"apply_softmax":true}"#),
        ] {
            assert_eq!(options(json).expect_err(json).param.as_deref(), Some(param), "{json}");
        }
    }
}
