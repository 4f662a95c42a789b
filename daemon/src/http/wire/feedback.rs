//! `POST /v1/feedback`.

use policy::RolloutId;
use ppo::rollout_log::Feedback;
use reward::Label;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    fields::{FieldError, Fields},
    sampling::{N_MAX, NAME_CHARS_MAX},
};

/// Characters of an edit or a comment at most.
const TEXT_CHARS_MAX: usize = 64 * 1024;
/// Scores live on the reward model's scale, whose deviation is 1.
const SCORE_MAX: f64 = 1e6;

/// Reads a body into the log's own words.
pub(crate) fn parse(body: &[u8], now_ms: u64) -> Result<Feedback, FieldError> {
    let mut f = Fields::parse(body)?;
    let request = f.text("id", NAME_CHARS_MAX)?.ok_or_else(|| f.error("id", "is required"))?;
    let index = f.count("index", 0..=N_MAX * 1024)?.unwrap_or(0);
    let feedback = Feedback {
        id: RolloutId { request, index },
        user: f.text("user", NAME_CHARS_MAX)?,
        score: f.number("score", -SCORE_MAX..=SCORE_MAX)?,
        label: match f.text("label", 16)?.as_deref() {
            None => None,
            Some("up") => Some(Label::Up),
            Some("down") => Some(Label::Down),
            Some(_) => return Err(f.error("label", "must be \"up\" or \"down\"")),
        },
        edit: f.text("edit", TEXT_CHARS_MAX)?,
        comment: f.text("comment", TEXT_CHARS_MAX)?,
        created_ms: now_ms,
    };
    let says_nothing =
        feedback.score.is_none() && feedback.label.is_none() && feedback.edit.is_none() && feedback.comment.is_none();
    match says_nothing {
        true => Err(f.error("score", "or `label`, `edit` or `comment` is required")),
        false => Ok(feedback),
    }
}

/// How thumbs are written.
pub(crate) fn label_word(label: Label) -> &'static str {
    match label {
        Label::Up => "up",
        Label::Down => "down",
    }
}

/// The receipt: committed when the client reads it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FeedbackResponse<'a> {
    pub(crate) object: &'static str,
    pub(crate) id: &'a str,
    pub(crate) index: u32,
    /// It counts in the rollout's training: it is a score or a label, the reward source listens, and it came in time.
    pub(crate) applied: bool,
    /// Where the rollout stood.
    pub(crate) state: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_feedback_is_named() {
        let cases = [
            ("id", r#"{"score":1}"#),
            ("score", r#"{"id":"a"}"#),
            ("score", r#"{"id":"a","score":"good"}"#),
            ("label", r#"{"id":"a","label":"sideways"}"#),
            ("index", r#"{"id":"a","index":-1,"score":1}"#),
        ];
        for (param, json) in cases {
            let error = parse(json.as_bytes(), 0).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
    }
}
