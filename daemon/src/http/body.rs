//! Bodies: their type, their size, and answers that do something once they are sent.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, Request},
    http::header,
};
use bytes::Bytes;

use super::{context::Context, error::ApiError, limits::Limits, wire::fields::FieldError};

/// The bytes of a JSON request, within `daemon.body_bytes_max`.
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl FromRequest<Context> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, context: &Context) -> Result<Self, ApiError> {
        check_headers(&request)?;
        read(request, context.limits()).await.map(JsonBytes)
    }
}

/// The bytes of a request whose body may be missing (then empty).
pub(crate) struct OptionalJsonBytes(pub(crate) Bytes);

impl FromRequest<Context> for OptionalJsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, context: &Context) -> Result<Self, ApiError> {
        let headers = check_headers(&request);
        let bytes = read(request, context.limits()).await?;
        if !bytes.is_empty() {
            headers?;
        }
        Ok(OptionalJsonBytes(bytes))
    }
}

/// A foreign web page can post text or forms to this daemon without asking, but not JSON: the check is a guard too.
fn check_headers(request: &Request) -> Result<(), ApiError> {
    if request.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(ApiError::Encoded);
    }
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { Err(ApiError::NotJson) }
}

async fn read(request: Request, limits: Limits) -> Result<Bytes, ApiError> {
    let bytes_max = limits.body_bytes_max;
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > bytes_max) {
        return Err(ApiError::BodyTooLarge(bytes_max));
    }
    let whole = to_bytes(Body::new(request.into_body()), bytes_max);
    let read = tokio::time::timeout(Duration::from_secs(limits.body_timeout_s), whole).await;
    read.map_err(|_| ApiError::SlowBody(limits.body_timeout_s))?.map_err(|error| {
        let source = std::error::Error::source(&error);
        match source.is_some_and(|source| source.to_string().contains("length limit")) {
            true => ApiError::BodyTooLarge(bytes_max),
            false => FieldError::whole("the body ended early").into(),
        }
    })
}
