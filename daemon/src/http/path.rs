//! The part of a path that names something.

use axum::{
    extract::{FromRequestParts, Path, rejection::PathRejection},
    http::request::Parts,
};

use super::{error::ApiError, wire::error::INVALID_PATH};

/// The one parameter of a route's path. axum's own extractor would refuse in words of its own, which nobody counts.
pub(crate) struct PathText(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(refusal)?;
        Ok(PathText(text))
    }
}

/// Any text is a good parameter, so all that can be wrong with one is that it is no text.
fn refusal(rejection: PathRejection) -> ApiError {
    match rejection {
        PathRejection::FailedToDeserializePathParams(_) => ApiError::Invalid {
            param: None,
            message: "the path is not UTF-8 once its percent-escapes are decoded".to_owned(),
            code: INVALID_PATH,
        },
        other => ApiError::internal("reading a path", other),
    }
}
