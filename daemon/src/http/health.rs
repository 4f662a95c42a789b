//! Probes. None of them waits for the engine, the log or the learner: a busy daemon is alive.

use axum::{
    extract::State,
    http::{HeaderMap, Uri, header},
    response::{Html, IntoResponse, Response},
};

use super::{context::Context, error::ApiError, wire::health};

/// 200 while the process runs.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// 200 while requests are admitted; 503 while loading or draining.
pub(crate) async fn readyz(State(context): State<Context>) -> Result<&'static str, ApiError> {
    context.admit().map(|_| "ok\n")
}

/// As llama-server answers.
pub(crate) async fn health(State(context): State<Context>) -> Result<Response, ApiError> {
    let services = context.admit()?;
    let stats = services.engine.stats();
    Ok(health::ok(services.engine.live().0, stats.running as u64, stats.waiting as u64).into_response())
}

/// Which program this is.
pub(crate) async fn version() -> Response {
    health::version(env!("CARGO_PKG_VERSION")).into_response()
}

/// The text format of Prometheus.
pub(crate) async fn metrics(State(context): State<Context>) -> Response {
    if let Ok(services) = context.services() {
        context.metrics().refresh(&services);
    }
    let text = context.metrics().render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// A page for people who open the address in a browser.
pub(crate) async fn home(State(context): State<Context>, uri: Uri, headers: HeaderMap) -> Html<String> {
    let state = match (context.admit(), context.services()) {
        (Ok(services), _) => format!("serving <b>{}</b>", services.engine.live()),
        (Err(_), Ok(_)) => "draining".to_owned(),
        (Err(_), Err(_)) => "loading".to_owned(),
    };
    let page = include_str!("home.html").replace("{state}", &state).replace("{version}", env!("CARGO_PKG_VERSION"));
    Html(page.replace("{host}", asked_under(&uri, &headers)))
}

/// Name and port that a page was asked under, to be shown in it. It is the asker's own text, so that a character which means
/// something to HTML or to a shell makes it none.
fn asked_under<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = uri.authority().map(|authority| authority.as_str()).or(named).unwrap_or_default();
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    if !host.is_empty() && host.chars().all(is_part) { host } else { "HOST" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_address_that_it_was_asked_under() {
        let shown = |uri: &str, host: Option<&'static str>| {
            let headers = host.map(|host| (header::HOST, axum::http::HeaderValue::from_static(host)));
            asked_under(&uri.parse().expect("a target"), &headers.into_iter().collect()).to_owned()
        };
        for host in ["127.0.0.1:8080", "[::1]:9", "chat.example", "my_box:80"] {
            assert_eq!(shown("/", Some(host)), host);
        }
        assert_eq!(shown("http://a.example:81/", Some("b.example")), "a.example:81");
        for odd in [None, Some(""), Some("a<b"), Some("a&b"), Some("a'b"), Some("$(reboot)"), Some("a b")] {
            assert_eq!(shown("/", odd), "HOST", "{odd:?}");
        }
    }
}
