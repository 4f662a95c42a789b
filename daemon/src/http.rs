//! HTTP: one file a route family, JSON in [`wire`], status codes in [`error`].
//!
//! A handler parses, asks a handle of the crates below, and answers; it never blocks the runtime and never holds a lock
//! across an await. What applies to every route is here: keys, the version header, counters, and the net under panics.

mod answer;
mod audit;
mod auth;
mod best_of;
mod body;
mod chars;
mod chat;
mod chunk_usage;
mod completions;
mod constraint;
mod context;
mod cors;
mod deposit;
mod docs;
mod error;
mod feedback;
mod generation;
mod header_limit;
mod health;
mod hosts;
mod imports;
mod limits;
mod models;
mod path;
mod pieces;
mod policies;
mod prompt_scores;
mod prompts;
mod query;
mod request_id;
mod rerank;
mod reward_model;
mod rewards;
mod rollouts;
mod score;
mod scoring;
mod server;
mod stream;
mod texts;
mod token_clock;
mod tokens;
mod trace;
mod training;
mod unread;
pub(crate) mod wire;

use std::{any::Any, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use prometheus::IntGauge;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

pub(crate) use self::{
    auth::{KeyRing, Keys},
    context::{Averaging, Context, ContextSetup, Importing, Learning, Services},
    error::ERROR_CODES,
    hosts::AllowedHosts,
    limits::Limits,
    reward_model::replace as replace_reward_model,
    server::{ConnectionLimits, Stop, serve},
};
use self::{
    context::VERSION_HEADER,
    error::{ApiError, ErrorCode},
    request_id::{REQUEST_ID_HEADER, RequestId},
    trace::{Head, RequestTrace},
};

/// Every route of the daemon; pages of `cors_origins` (see [`cors`]) may call them.
pub(crate) fn router(context: Context, cors_origins: &str) -> Router {
    let api = Router::new()
        .route("/v1/completions", post(completions::post))
        .route("/v1/chat/completions", post(chat::post))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .route("/v1/rewards", post(rewards::post))
        .route("/get_reward", post(rewards::get_reward))
        .route("/v1/score", post(score::pairs))
        .route("/score", post(score::pairs))
        .route("/classify", post(score::classify))
        .route("/pooling", post(score::pooling))
        .route("/v1/rerank", post(rerank::post))
        .route("/rerank", post(rerank::post))
        .route("/predict", post(rerank::predict))
        .route("/v1/feedback", post(feedback::post))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .route_layer(middleware::from_fn_with_state(context.clone(), auth::api));
    let admin = Router::new()
        .route("/v1/policies", get(policies::list))
        .route("/v1/policies", post(imports::post))
        .route("/v1/policies/{version}", get(policies::get))
        .route("/v1/policies/{version}/activate", post(policies::activate))
        .route("/v1/rewards/model", get(reward_model::get))
        .route("/v1/rewards/model", post(reward_model::post))
        .route("/v1/training", get(training::get))
        .route("/v1/training/pause", post(training::pause))
        .route("/v1/training/resume", post(training::resume))
        .route("/v1/training/step", post(training::step))
        .route("/v1/audit", get(audit::list))
        .route("/v1/rollouts", get(rollouts::list))
        .route("/v1/rollouts/forget", post(rollouts::forget))
        .route_layer(middleware::from_fn_with_state(context.clone(), auth::admin));
    let open = Router::new()
        .route("/", get(health::home))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/v1/health", get(health::health))
        .route("/version", get(health::version))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::page));
    let routes = open
        .merge(api)
        .merge(admin)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(CatchPanicLayer::custom(caught));
    let routes = match cors::layer(cors_origins) {
        Some(layer) => routes.layer(layer),
        None => routes,
    };
    let routes = routes.layer(middleware::from_fn_with_state(context.clone(), hosts::guard));
    // Outside of CORS, whose answer to a preflight repeats what the request says.
    let routes = routes.layer(middleware::from_fn_with_state(context.clone(), header_limit::guard));
    // Outermost, so that what the layers inside refuse is counted and named like everything else.
    routes.layer(middleware::from_fn_with_state(context.clone(), observe)).with_state(context)
}

async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::NotFound(format!("there is nothing at {:?}", uri.path().chars().take(256).collect::<String>()))
}

async fn no_such_method() -> ApiError {
    ApiError::MethodNotAllowed
}

/// The cause went to the log through the panic hook; the client gets no word of it.
fn caught(_: Box<dyn Any + Send>) -> Response {
    ApiError::Internal.into_response()
}

/// Names the request in its answer and in the log.
async fn observe(State(context): State<Context>, mut request: Request, next: Next) -> Response {
    let id = request_id::of(request.headers());
    let id_text = id.to_str().unwrap_or_default();
    request.extensions_mut().insert(RequestId(id_text.to_owned()));
    let span = tracing::info_span!("request", id = id_text, trace = tracing::field::Empty);
    let route = route_label(&request);
    let head = Head { id: id_text, method: method_label(request.method()), route: &route };
    let trace = RequestTrace::begin(context.tracer(), request.headers(), &head);
    if let Some(trace) = &trace {
        span.record("trace", trace.id());
    }
    let answering = count(&context, &head, request, next);
    let mut response = RequestTrace::around(trace, answering).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID_HEADER, id);
    response
}

/// Counts the request and stamps the response with the live version, if nothing more exact did. The label is the route's
/// pattern, so a scanner cannot make new ones.
async fn count(context: &Context, head: &Head<'_>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (handler, method) = (head.route, head.method);
    let serving = &context.metrics().serving;
    let in_flight = InFlight::begin(&serving.http_in_flight);
    let mut response = next.run(request).await;
    drop(in_flight);
    let (status, elapsed) = (response.status(), began.elapsed());
    // Patterns and numbers only: a path or a body may hold what somebody wrote.
    tracing::debug!(target: "honed::access", method, handler, status = status.as_u16(), elapsed_s = elapsed.as_secs_f64());
    serving.http_s.with_label_values(&[handler]).observe(elapsed.as_secs_f64());
    serving.http_requests.with_label_values(&[handler, method, status.as_str()]).inc();
    let code = response.extensions().get::<ErrorCode>().map(|code| code.0);
    if let Some(trace) = RequestTrace::current() {
        trace.answered(status.as_u16(), code);
    }
    if let Some(code) = code {
        serving.errors.with_label_values(&[code]).inc();
    }
    if let Ok(services) = context.services() {
        let live = || HeaderValue::from(services.engine.live().0);
        response.headers_mut().entry(VERSION_HEADER).or_insert_with(live);
    }
    response
}

/// The pattern of the path; the path itself is the client's words.
fn route_label(request: &Request) -> String {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    path.unwrap_or_else(|| "other".to_owned())
}

/// One request more in the gauge, until its answer begins or its client leaves.
struct InFlight(IntGauge);

impl InFlight {
    fn begin(gauge: &IntGauge) -> InFlight {
        gauge.inc();
        InFlight(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Methods are the client's words too, and there is no end to them.
fn method_label(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

/// Bytes of text whose tokens take long enough (tens of microseconds a kilobyte) to be looked for beside the runtime.
const MUCH_TEXT: usize = 1 << 14;

/// Runs what computes for long on much text so that other connections do not wait for it.
fn computing<T>(n_bytes: usize, work: impl FnOnce() -> T) -> T {
    if n_bytes > MUCH_TEXT { tokio::task::block_in_place(work) } else { work() }
}

/// Runs what waits for disk or for an owner thread beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal("a blocking task", error))
}
