//! The one shape of every error.

use serde::Serialize;
use utoipa::ToSchema;

/// What the OpenAPI document forbids: a field is missing, or of the wrong type or out of range, or contradicts another one.
pub(crate) const INVALID_VALUE: &str = "invalid_value";
/// Fields that the document allows and that do not fit each other: their lengths, their sum, or which of two is larger.
pub(crate) const FIELDS_DISAGREE: &str = "fields_disagree";
/// A token id that the vocabulary does not have.
pub(crate) const UNKNOWN_TOKEN: &str = "unknown_token";
/// A grammar, regular expression, choice or JSON schema that cannot be followed.
pub(crate) const INVALID_GRAMMAR: &str = "invalid_grammar";
/// A conversation that the model's template refuses, or that does not end with what is to be judged.
pub(crate) const INVALID_MESSAGES: &str = "invalid_messages";
/// More tokens than the context window, or what the reward model reads, can hold.
pub(crate) const CONTEXT_LENGTH_EXCEEDED: &str = "context_length_exceeded";
/// A text that names no regular file, or a URL's path that is not UTF-8.
pub(crate) const INVALID_PATH: &str = "invalid_path";
/// A file that is no model, or none that fits.
pub(crate) const INVALID_MODEL: &str = "invalid_model";

/// `{"error":{…}}` with all four keys, as OpenAI's specification requires.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody<'a> {
    pub(crate) error: ErrorObject<'a>,
}

/// What went wrong, for people and for programs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorObject<'a> {
    pub(crate) message: &'a str,
    pub(crate) r#type: &'a str,
    pub(crate) param: Option<&'a str>,
    pub(crate) code: Option<&'a str>,
}
