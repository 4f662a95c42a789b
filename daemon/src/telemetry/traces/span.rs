//! One span: a piece of work with a beginning, an end and a place in a trace.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngCore;

/// Names a trace over all programs that take part in it; never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(pub(crate) [u8; 16]);

/// Names a span within its trace; never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanId(pub(crate) [u8; 8]);

impl TraceId {
    /// A fresh one.
    pub(crate) fn random() -> TraceId {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        // All zero means "none"; the last bit of 128 is no loss.
        bytes[15] |= 1;
        TraceId(bytes)
    }
}

impl SpanId {
    /// A fresh one.
    pub(crate) fn random() -> SpanId {
        let mut bytes = [0; 8];
        rand::rng().fill_bytes(&mut bytes);
        bytes[7] |= 1;
        SpanId(bytes)
    }
}

/// Lower-case hexadecimal, as W3C and OTLP's JSON write ids.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A part of our own.
    Internal,
    /// An answer to somebody's request.
    Server,
}

/// What is known about a span under one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attribute {
    /// A word of ours, never a client's text.
    Word(String),
    /// A count.
    Count(u64),
    /// A number.
    Real(f64),
}

/// A finished piece of work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    /// The trace that it is part of.
    pub(crate) trace: TraceId,
    /// Its own name in it.
    pub(crate) id: SpanId,
    /// What it is a part of.
    pub(crate) parent: Option<SpanId>,
    /// What was done.
    pub(crate) name: String,
    /// Whose work.
    pub(crate) kind: Kind,
    /// Nanoseconds since the Unix epoch.
    pub(crate) start_ns: u64,
    /// Nanoseconds since the Unix epoch.
    pub(crate) end_ns: u64,
    /// What is known about it.
    pub(crate) attributes: Vec<(&'static str, Attribute)>,
    /// Whether it failed through our fault.
    pub(crate) is_error: bool,
}

/// The wall clock, nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    nanoseconds(since)
}

/// Whole nanoseconds; 584 years are enough.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
