//! How long the start line and the headers of a request may be.
//!
//! hyper bounds its buffer and not what is in it: it looks at the bound only while headers are incomplete, and the read
//! that completes them may go far beyond. So the bound that is configured is kept here.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Uri, uri::Authority},
    middleware::Next,
    response::Response,
};

use super::{context::Context, error::ApiError};

/// Bytes of a header beside its name and value: a colon, a space, and the end of the line.
const SEPARATOR_BYTES: usize = 4;

/// Refuses a request whose headers are too long.
pub(crate) async fn guard(State(context): State<Context>, request: Request, next: Next) -> Result<Response, ApiError> {
    let bytes_max = context.limits().header_bytes_max;
    match n_bytes(request.uri(), request.headers()) <= bytes_max {
        true => Ok(next.run(request).await),
        false => Err(ApiError::HeadersTooLarge(bytes_max)),
    }
}

/// Bytes of the target and of every header. What else a request has is as short as its method.
fn n_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let header_bytes: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + SEPARATOR_BYTES).sum();
    target_bytes(uri) + header_bytes
}

fn target_bytes(uri: &Uri) -> usize {
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri.authority().map(Authority::as_str).map_or(0, str::len);
    scheme + authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn n_bytes_of(uri: &str, headers: &[(&str, &str)]) -> usize {
        let builder = Request::builder().uri(uri);
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        let request = builder.body(Body::empty()).expect("a request");
        n_bytes(request.uri(), request.headers())
    }

    #[test]
    fn the_target_and_every_line_count() {
        assert_eq!(n_bytes_of("/a?b=c", &[]), "/a?b=c".len());
        assert_eq!(n_bytes_of("http://h:80/a?b", &[]), "http://h:80/a?b".len());
        assert_eq!(n_bytes_of("h:80", &[]), "h:80".len(), "CONNECT");
        assert_eq!(n_bytes_of("/", &[("x", "1"), ("x", "22"), ("y", "")]), "/x: 1\r\nx: 22\r\ny: \r\n".len());
    }
}
