//! The trace of one request: a span from its head to the last byte of its answer, and in it a span for each thing that a choice
//! waited for.
//!
//! The handler's task carries the trace; whatever outlives the handler (the body of a stream) takes a share of it. The span is
//! sent when the last share is dropped, so its end is the end of the answer, however that came.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::http::HeaderMap;
use policy::{PolicyVersion, engine::Finished};

use super::generation::Job;
use crate::telemetry::{
    engine::finish_word,
    traces::{Attribute, Kind, Parent, Span, SpanId, TraceId, Tracer, hex, nanoseconds, now_ns},
};

tokio::task_local! {
    static CURRENT: Option<RequestTrace>;
}

/// Routes that are asked every few seconds by machines and would drown the others.
const UNTRACED: [&str; 5] = ["/livez", "/readyz", "/health", "/v1/health", "/metrics"];

/// What a request's head says.
pub(crate) struct Head<'a> {
    /// Its `x-request-id`.
    pub(crate) id: &'a str,
    /// `GET`, `POST`, …
    pub(crate) method: &'static str,
    /// The pattern of its path.
    pub(crate) route: &'a str,
}

/// A share of a request's trace.
#[derive(Clone)]
pub(crate) struct RequestTrace(Arc<Shared>);

struct Shared {
    tracer: Arc<Tracer>,
    began: Instant,
    span: Mutex<Span>,
}

impl RequestTrace {
    /// Begins the trace of a request, if it is to have one.
    pub(crate) fn begin(tracer: Option<&Arc<Tracer>>, headers: &HeaderMap, head: &Head<'_>) -> Option<RequestTrace> {
        let tracer = tracer?;
        let mut parents = headers.get_all("traceparent").iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(header), None) => Parent::parse(header.as_bytes()),
            _ => None,
        };
        if UNTRACED.contains(&head.route) || !tracer.samples(parent.as_ref()) {
            return None;
        }
        let span = Span {
            trace: parent.map_or_else(TraceId::random, |parent| parent.trace),
            id: SpanId::random(),
            parent: parent.map(|parent| parent.span),
            name: format!("{} {}", head.method, head.route),
            kind: Kind::Server,
            start_ns: now_ns(),
            end_ns: 0,
            attributes: vec![
                ("http.request.method", Attribute::Word(head.method.to_owned())),
                ("http.route", Attribute::Word(head.route.to_owned())),
                ("honed.request_id", Attribute::Word(head.id.to_owned())),
            ],
            is_error: false,
        };
        let shared = Shared { tracer: Arc::clone(tracer), began: Instant::now(), span: Mutex::new(span) };
        Some(RequestTrace(Arc::new(shared)))
    }

    /// The trace of the request that this task answers.
    pub(crate) fn current() -> Option<RequestTrace> {
        CURRENT.try_with(Clone::clone).ok().flatten()
    }

    /// Answers a request whose trace this is.
    pub(crate) async fn around<T>(trace: Option<RequestTrace>, answering: impl Future<Output = T>) -> T {
        CURRENT.scope(trace, answering).await
    }

    /// The trace's id, for the log.
    pub(crate) fn id(&self) -> String {
        hex(&self.lock().trace.0)
    }

    /// Notes what the answer's head says.
    pub(crate) fn answered(&self, status: u16, code: Option<&'static str>) {
        let mut span = self.lock();
        span.is_error = status >= 500;
        span.attributes.push(("http.response.status_code", Attribute::Count(status.into())));
        span.attributes.extend(code.map(|code| ("error.type", Attribute::Word(code.to_owned()))));
    }

    /// Notes what is asked of the engine, and which weights will answer.
    pub(crate) fn submitted(&self, job: &Job, version: PolicyVersion) {
        let n_tokens: usize = job.prompts.iter().map(Vec::len).sum();
        self.lock().attributes.extend([
            ("gen_ai.response.model", Attribute::Word(version.to_string())),
            ("gen_ai.usage.input_tokens", Attribute::Count(n_tokens as u64)),
            ("gen_ai.request.choice.count", Attribute::Count(job.prompts.len() as u64 * u64::from(job.n))),
            ("gen_ai.request.max_tokens", Attribute::Count(job.sampling.max_tokens.into())),
            ("gen_ai.request.temperature", Attribute::Real(job.sampling.temperature.into())),
        ]);
    }

    /// Notes an error that came after the head: inside a stream.
    pub(crate) fn failed(&self, code: &'static str, is_ours: bool) {
        let mut span = self.lock();
        span.is_error |= is_ours;
        span.attributes.push(("error.type", Attribute::Word(code.to_owned())));
    }

    /// Sends the three parts of a choice that has just ended.
    pub(crate) fn finished(&self, finished: &Finished) {
        let timings = &finished.timings;
        // However late it is read.
        let end = now_ns().saturating_sub(nanoseconds(finished.at.elapsed()));
        let decode = end.saturating_sub(nanoseconds(timings.decode));
        let prefill = decode.saturating_sub(nanoseconds(timings.prefill));
        let queue = prefill.saturating_sub(nanoseconds(timings.queued));
        let index = ("honed.choice", Attribute::Count(finished.index.into()));
        let cached = ("honed.cached_tokens", Attribute::Count(finished.cached_tokens.into()));
        let drawn = ("gen_ai.usage.output_tokens", Attribute::Count(finished.rollout.response.len() as u64));
        let reason = finish_word(finished.rollout.finish).to_owned();
        let reason = ("gen_ai.response.finish_reason", Attribute::Word(reason));
        self.part("queue", [queue, prefill], vec![index.clone()]);
        self.part("prefill", [prefill, decode], vec![index.clone(), cached]);
        self.part("decode", [decode, end], vec![index, drawn, reason]);
    }

    fn part(&self, name: &str, [start_ns, end_ns]: [u64; 2], attributes: Vec<(&'static str, Attribute)>) {
        let (trace, parent) = {
            let span = self.lock();
            (span.trace, Some(span.id))
        };
        let (id, kind, name) = (SpanId::random(), Kind::Internal, name.to_owned());
        let part = Span { trace, id, parent, name, kind, start_ns, end_ns, attributes, is_error: false };
        self.0.tracer.send(part);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Span> {
        self.0.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner).clone();
        span.end_ns = span.start_ns.saturating_add(nanoseconds(self.began.elapsed()));
        self.tracer.send(span);
    }
}
