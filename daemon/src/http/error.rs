//! What can go wrong between the socket and the engine. The only file that knows status codes.
//!
//! The client learns what it can act on; causes inside the daemon are logged and stay inside (peers have leaked heap
//! addresses and paths through error texts).

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use policy::PolicyVersion;
use ppo::rollout_log::LogError;

use super::wire::{
    error::{
        CONTEXT_LENGTH_EXCEEDED, ErrorBody, ErrorObject, FIELDS_DISAGREE, INVALID_GRAMMAR, INVALID_MESSAGES,
        INVALID_MODEL, INVALID_PATH, INVALID_VALUE, UNKNOWN_TOKEN,
    },
    fields::FieldError,
    json,
};

/// Every code of [`ApiError`], so that their counters are there before the first error.
pub(crate) const ERROR_CODES: &[&str] = &[
    INVALID_VALUE,
    FIELDS_DISAGREE,
    UNKNOWN_TOKEN,
    INVALID_GRAMMAR,
    INVALID_MESSAGES,
    CONTEXT_LENGTH_EXCEEDED,
    INVALID_PATH,
    INVALID_MODEL,
    "invalid_api_key",
    "forbidden",
    "file_too_large",
    "model_not_found",
    "model_not_loaded",
    "not_found",
    "method_not_allowed",
    "conflict",
    "body_too_large",
    "body_timeout",
    "headers_too_large",
    "unsupported_media_type",
    "queue_full",
    "unavailable",
    "timeout",
    "internal_error",
];

/// OpenAI's clients obey it, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An answer other than success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request breaks a rule; `param` names the field when there is one.
    #[error("{message}")]
    Invalid {
        /// The field.
        param: Option<String>,
        /// The rule.
        message: String,
        /// For programs.
        code: &'static str,
    },
    /// No key, or one that is not ours.
    #[error("a valid API key is required in the header `Authorization: Bearer KEY`")]
    NoKey,
    /// A good key (or none needed), but not for this route.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A path that leads out of where it may lead.
    #[error("{0}")]
    ForbiddenPath(String),
    /// A file larger than `daemon.import_bytes_max`.
    #[error("{0}")]
    FileTooLarge(String),
    /// The `model` field names none that is addressable.
    #[error("the model {0:?} does not exist; GET /v1/models lists those that do")]
    UnknownModel(String),
    /// The `model` field of a request for text names what judges.
    #[error("the model {0:?} judges and does not generate; POST /v1/rewards asks it")]
    JudgesOnly(String),
    /// The weights exist, but not in memory.
    #[error("{0} is kept on disk and not in memory; POST /v1/policies/{n}/activate makes it answer", n = .0.0)]
    NotLoaded(PolicyVersion),
    /// No such path or thing.
    #[error("{0}")]
    NotFound(String),
    /// The path exists, not so the method.
    #[error("this path does not answer that method")]
    MethodNotAllowed,
    /// The state is not what the client expected it to be.
    #[error("{0}")]
    Conflict(String),
    /// More bytes than `daemon.body_bytes_max`.
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// Slower than `daemon.body_timeout_s`.
    #[error("the body did not arrive within {0} seconds")]
    SlowBody(u64),
    /// More bytes than `daemon.header_bytes_max`.
    #[error("the start line and the headers are larger than {0} bytes")]
    HeadersTooLarge(usize),
    /// Not JSON by its header.
    #[error("the header Content-Type must be application/json")]
    NotJson,
    /// Compressed.
    #[error("the body must not be compressed: Content-Encoding must be absent or identity")]
    Encoded,
    /// Every slot and every waiting place is taken.
    #[error("too many requests are waiting; try again later")]
    QueueFull,
    /// Starting, or without something that comes back.
    #[error("{0}")]
    Unavailable(&'static str),
    /// Draining: it admits nothing any more.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// Longer than `daemon.request_timeout_s`.
    #[error("the request took longer than {0} seconds and was given up")]
    TimedOut(u64),
    /// Our fault; the cause is in the log.
    #[error("internal error; its cause is in the daemon's log")]
    Internal,
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        ApiError::Invalid { param: error.param, message: error.message, code: error.code }
    }
}

impl ApiError {
    /// An error about one field.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> ApiError {
        ApiError::coded(INVALID_VALUE, param, message)
    }

    /// An error about one field that the OpenAPI document cannot foresee, under its code.
    pub(crate) fn coded(code: &'static str, param: &str, message: impl Into<String>) -> ApiError {
        ApiError::Invalid { param: Some(param.to_owned()), message: message.into(), code }
    }

    /// Logs the cause and hides it.
    pub(crate) fn internal(what: &str, cause: impl std::fmt::Display) -> ApiError {
        tracing::error!(%cause, "{what} failed");
        ApiError::Internal
    }

    /// A change of the rollout log that was not made: a full disk is nobody's fault, and may have room again soon.
    pub(crate) fn not_recorded(what: &str, error: &LogError) -> ApiError {
        match error {
            LogError::Busy => ApiError::QueueFull,
            LogError::Closed => ApiError::ShuttingDown,
            _ => {
                tracing::error!(%error, "{what} could not be recorded");
                ApiError::Unavailable("the rollout log cannot be written now; the daemon's log says why")
            }
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            ApiError::Invalid { .. } | ApiError::SlowBody(_) => StatusCode::BAD_REQUEST,
            ApiError::NoKey => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden(_) | ApiError::ForbiddenPath(_) => StatusCode::FORBIDDEN,
            ApiError::UnknownModel(_) | ApiError::JudgesOnly(_) | ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::Conflict(_) | ApiError::NotLoaded(_) => StatusCode::CONFLICT,
            ApiError::BodyTooLarge(_) | ApiError::FileTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::HeadersTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ApiError::NotJson | ApiError::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ApiError::QueueFull => StatusCode::TOO_MANY_REQUESTS,
            ApiError::Unavailable(_) | ApiError::ShuttingDown | ApiError::TimedOut(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ApiError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            ApiError::NoKey => "authentication_error",
            ApiError::Forbidden(_) | ApiError::ForbiddenPath(_) => "permission_error",
            ApiError::QueueFull => "rate_limit_error",
            ApiError::Unavailable(_) | ApiError::ShuttingDown | ApiError::TimedOut(_) | ApiError::Internal => {
                "server_error"
            }
            _ => "invalid_request_error",
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            ApiError::Invalid { param, .. } => param.as_deref(),
            ApiError::UnknownModel(_) | ApiError::JudgesOnly(_) | ApiError::NotLoaded(_) => Some("model"),
            ApiError::ForbiddenPath(_) | ApiError::FileTooLarge(_) => Some("path"),
            _ => None,
        }
    }

    /// For programs, and the label of the error counter.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            ApiError::Invalid { code, .. } => code,
            ApiError::NoKey => "invalid_api_key",
            ApiError::Forbidden(_) | ApiError::ForbiddenPath(_) => "forbidden",
            ApiError::UnknownModel(_) | ApiError::JudgesOnly(_) => "model_not_found",
            ApiError::NotLoaded(_) => "model_not_loaded",
            ApiError::NotFound(_) => "not_found",
            ApiError::MethodNotAllowed => "method_not_allowed",
            ApiError::Conflict(_) => "conflict",
            ApiError::BodyTooLarge(_) => "body_too_large",
            ApiError::FileTooLarge(_) => "file_too_large",
            ApiError::SlowBody(_) => "body_timeout",
            ApiError::HeadersTooLarge(_) => "headers_too_large",
            ApiError::NotJson | ApiError::Encoded => "unsupported_media_type",
            ApiError::QueueFull => "queue_full",
            ApiError::Unavailable(_) | ApiError::ShuttingDown => "unavailable",
            ApiError::TimedOut(_) => "timeout",
            ApiError::Internal => "internal_error",
        }
    }

    /// The body, also sent as an event when a stream has begun.
    pub(crate) fn json(&self) -> String {
        let message = self.to_string();
        let error =
            ErrorObject { message: &message, r#type: self.kind(), param: self.param(), code: Some(self.code()) };
        json(&ErrorBody { error })
    }
}

/// The code of an error response, for the counter by code.
#[derive(Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut response = (self.status(), [json], self.json()).into_response();
        response.extensions_mut().insert(ErrorCode(self.code()));
        let headers = response.headers_mut();
        match self {
            ApiError::QueueFull => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // Where it was the request that is too long for its time, a client that retries by itself has it computed in vain again.
            ApiError::TimedOut(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            ApiError::Unavailable(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            // A client that retries by itself would reach this daemon again, which is ending.
            ApiError::ShuttingDown => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            ApiError::NoKey => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The rest of a slow body may still come, and must not be read as the next request. After headers that are
            // far too long hyper hangs up by itself; a little too long is no other case.
            ApiError::SlowBody(_) | ApiError::HeadersTooLarge(_) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // OpenAI's clients retry 409; the state that a compare-and-set saw does not come back by itself.
            ApiError::Conflict(_) | ApiError::NotLoaded(_) => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::{ApiError, LogError, StatusCode};

    /// Goal: a daemon that has yet to load is asked again, one that ends is not. Method: the headers of both.
    #[test]
    fn only_a_daemon_that_stays_is_asked_again() {
        for (error, should_retry) in
            [(ApiError::Unavailable("the model is loading"), None), (ApiError::ShuttingDown, Some("false"))]
        {
            let response = error.into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            let header = |name| response.headers().get(name).map(|value| value.to_str().expect("ASCII"));
            assert_eq!((header("retry-after"), header("x-should-retry")), (Some("5"), should_retry));
        }
    }

    #[test]
    fn what_the_log_cannot_take_now_may_be_sent_again() {
        let of = |error| ApiError::not_recorded("a thing", &error).status();
        assert_eq!(of(LogError::Commit("database or disk is full".to_owned())), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(of(LogError::Closed), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(of(LogError::Busy), StatusCode::TOO_MANY_REQUESTS);
    }
}
