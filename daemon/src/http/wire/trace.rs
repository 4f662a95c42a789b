//! Spans as OTLP's JSON writes them: ids in hexadecimal, 64-bit numbers as text (opentelemetry-proto, "JSON Protobuf Encoding").

use serde::Serialize;
use serde_json::{Value, json};

use super::json;
use crate::telemetry::traces::{Attribute, Kind, Span, hex};

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_SERVER`.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// The body of one export.
pub(crate) fn export(spans: &[Span]) -> String {
    let (name, version) = ("honed", env!("CARGO_PKG_VERSION"));
    let resource = [pair("service.name", word(name)), pair("service.version", word(version))];
    let spans: Vec<Value> = spans.iter().map(span).collect();
    json(&json!({
        "resourceSpans": [{
            "resource": {"attributes": resource},
            "scopeSpans": [{"scope": {"name": name, "version": version}, "spans": spans}],
        }],
    }))
}

fn span(span: &Span) -> Value {
    let attributes: Vec<Value> = span.attributes.iter().map(|(key, value)| pair(key, attribute(value))).collect();
    let mut written = json!({
        "traceId": hex(&span.trace.0),
        "spanId": hex(&span.id.0),
        "name": span.name,
        "kind": match span.kind { Kind::Internal => INTERNAL, Kind::Server => SERVER },
        "startTimeUnixNano": span.start_ns.to_string(),
        "endTimeUnixNano": span.end_ns.to_string(),
        "attributes": attributes,
    });
    if let Some(parent) = &span.parent {
        written["parentSpanId"] = hex(&parent.0).into();
    }
    if span.is_error {
        written["status"] = json!({"code": ERROR});
    }
    written
}

fn pair(key: &str, value: Value) -> Value {
    json!({"key": key, "value": value})
}

fn attribute(value: &Attribute) -> Value {
    match value {
        Attribute::Word(text) => word(text),
        Attribute::Count(n) => json!({"intValue": n.to_string()}),
        Attribute::Real(x) => json!({"doubleValue": x}),
    }
}

fn word(text: impl Serialize) -> Value {
    json!({"stringValue": text})
}
