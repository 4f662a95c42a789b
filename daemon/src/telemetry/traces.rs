//! Traces: what each request spent its time on, for a collector that speaks OTLP over HTTP (JSON).
//!
//! Off unless `daemon.traces_url` names a collector. A span is plain data ([`Span`]); handing one over is a push into a bounded
//! queue that never waits. One owner thread gathers spans and posts them. What the queue has no room for, and what the collector
//! does not take, is counted and gone: a trace is worth less than an answer. No span holds text of a prompt or a response.
//!
//! The exporter is ours because what it needs is already here (`ureq`, `serde_json`); the official ones bring a second HTTP
//! stack or gRPC.

mod parent;
mod span;

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use prometheus::{IntCounter, IntCounterVec, Registry};
use rand::Rng;

pub(crate) use self::{
    parent::Parent,
    span::{Attribute, Kind, Span, SpanId, TraceId, hex, nanoseconds, now_ns},
};
use super::registrar::Registrar;
use crate::http::wire::trace;

/// Spans that may wait.
const QUEUE_MAX: usize = 8192;
/// Spans in one post.
const BATCH_MAX: usize = 512;
/// How long a span may wait for company.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What became of spans.
#[derive(Clone)]
pub struct TraceMetrics {
    exported: IntCounter,
    dropped: IntCounterVec,
}

impl TraceMetrics {
    pub(super) fn register(registry: &Registry) -> TraceMetrics {
        let r = Registrar(registry);
        let dropped = r.counters("honed_trace_spans_dropped_total", "Spans that no collector got.", &["reason"]);
        for reason in ["queue_full", "export_failed"] {
            dropped.with_label_values(&[reason]);
        }
        TraceMetrics {
            exported: r.counter("honed_trace_spans_exported_total", "Spans that the collector took."),
            dropped,
        }
    }

    fn drop_spans(&self, reason: &str, n: usize) {
        self.dropped.with_label_values(&[reason]).inc_by(n as u64);
    }
}

/// Takes spans. Dropping it, or [`Tracer::shutdown`], posts what waits and ends the thread.
pub(crate) struct Tracer {
    /// `None` once it is shut down.
    spans: Mutex<Option<Sender<Span>>>,
    /// Disconnected once the thread has ended.
    ended: Receiver<Infallible>,
    /// Share of the requests that nobody else decided about.
    share: f64,
    metrics: TraceMetrics,
}

impl Tracer {
    /// Starts the thread, where a collector is configured.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(daemon: &config::Daemon, metrics: &TraceMetrics) -> std::io::Result<Option<Tracer>> {
        if daemon.traces_url.is_empty() {
            return Ok(None);
        }
        let (sender, spans) = bounded(QUEUE_MAX);
        let (alive, ended) = bounded(0);
        let exporter =
            Exporter { agent: agent(), url: daemon.traces_url.clone(), metrics: metrics.clone(), is_well: true };
        std::thread::Builder::new().name("traces".to_owned()).spawn(move || {
            let _alive: Sender<Infallible> = alive;
            exporter.run(&spans);
        })?;
        tracing::info!(url = daemon.traces_url, share = daemon.traces_share, "sending traces");
        let (spans, metrics) = (Mutex::new(Some(sender)), metrics.clone());
        Ok(Some(Tracer { spans, ended, share: daemon.traces_share, metrics }))
    }

    /// Whether to trace a request: as whoever called us decided, else by chance.
    pub(crate) fn samples(&self, parent: Option<&Parent>) -> bool {
        parent.map_or_else(|| rand::rng().random::<f64>() < self.share, |parent| parent.is_sampled)
    }

    /// Queues a finished span, or counts that there was no room.
    pub(crate) fn send(&self, span: Span) {
        let sender = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.as_ref().is_none_or(|sender| sender.try_send(span).is_err()) {
            self.metrics.drop_spans("queue_full", 1);
        }
    }

    /// Posts what waits, for so long at most.
    pub(crate) fn shutdown(&self, deadline: Duration) -> bool {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).take();
        matches!(self.ended.recv_timeout(deadline), Err(RecvTimeoutError::Disconnected))
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("honed/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// What the thread owns.
struct Exporter {
    agent: ureq::Agent,
    url: String,
    metrics: TraceMetrics,
    /// Whether the last post was taken: a collector that is down for an hour is worth two lines of the log, not thousands.
    is_well: bool,
}

impl Exporter {
    fn run(mut self, spans: &Receiver<Span>) {
        while let Ok(first) = spans.recv() {
            let mut batch = vec![first];
            let deadline = Instant::now() + GATHER;
            while batch.len() < BATCH_MAX {
                match spans.recv_deadline(deadline) {
                    Ok(span) => batch.push(span),
                    Err(_) => break,
                }
            }
            self.post(&batch);
        }
    }

    fn post(&mut self, batch: &[Span]) {
        let body = trace::export(batch);
        let request = self.agent.post(&self.url).header("content-type", "application/json");
        let refusal = match request.send(body.as_bytes()) {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("HTTP status {}", response.status().as_u16())),
            Err(error) => Some(error.to_string()),
        };
        match &refusal {
            None => self.metrics.exported.inc_by(batch.len() as u64),
            Some(_) => self.metrics.drop_spans("export_failed", batch.len()),
        }
        match &refusal {
            Some(cause) if self.is_well => {
                tracing::warn!(cause, "the collector of traces takes none; they are dropped")
            }
            None if !self.is_well => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        self.is_well = refusal.is_none();
    }
}
