//! The one shape of every error.

use serde::Serialize;
use utoipa::ToSchema;

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
