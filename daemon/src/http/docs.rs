//! `GET /openapi.json`, and a page at `/docs` that shows it to people: our own few lines, because a page that loads its
//! code from elsewhere shows nothing on a machine without a way out.

use axum::{
    extract::State,
    http::{HeaderName, header},
    response::{Html, IntoResponse, Response},
};

use super::{context::Context, wire::openapi};

/// What the page may do: run its own script, and ask this daemon.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";

/// The document of a daemon with these keys.
pub(crate) async fn openapi(State(context): State<Context>) -> Response {
    let keys = context.keys();
    let needs = openapi::Needs { api_key: !keys.api.is_empty(), admin_key: !keys.admin.is_empty() };
    ([(header::CONTENT_TYPE, "application/json")], openapi::document(needs)).into_response()
}

/// The page.
pub(crate) async fn page() -> Response {
    let policy = (HeaderName::from_static("content-security-policy"), POLICY);
    ([policy], Html(include_str!("docs.html"))).into_response()
}
