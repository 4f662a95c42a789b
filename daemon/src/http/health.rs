//! Probes. None of them waits for the engine, the log or the learner: a busy daemon is alive.

use axum::{
    extract::State,
    http::header,
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
pub(crate) async fn home(State(context): State<Context>) -> Html<String> {
    let state = match (context.admit(), context.services()) {
        (Ok(services), _) => format!("serving <b>{}</b>", services.engine.live()),
        (Err(_), Ok(_)) => "draining".to_owned(),
        (Err(_), Err(_)) => "loading".to_owned(),
    };
    Html(include_str!("home.html").replace("{state}", &state).replace("{version}", env!("CARGO_PKG_VERSION")))
}
