//! The header `traceparent`: which trace a request is part of, and whether it is kept (W3C Trace Context, level 1).

use super::span::{SpanId, TraceId};

/// What the caller said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// The trace.
    pub(crate) trace: TraceId,
    /// The caller's span.
    pub(crate) span: SpanId,
    /// Whether the caller keeps its part of the trace.
    pub(crate) is_sampled: bool,
}

impl Parent {
    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`; later versions may say more behind it. `None` where the standard says to begin a
    /// trace of one's own.
    pub(crate) fn parse(header: &[u8]) -> Option<Parent> {
        let text = std::str::from_utf8(header).ok()?;
        let mut parts = text.split('-');
        let version: [u8; 1] = bytes(parts.next()?)?;
        let trace: [u8; 16] = bytes(parts.next()?)?;
        let span: [u8; 8] = bytes(parts.next()?)?;
        let flags: [u8; 1] = bytes(parts.next()?)?;
        let has_more = parts.next().is_some();
        let is_known = version != [0xff] && (version != [0] || !has_more);
        let is_named = trace != [0; 16] && span != [0; 8];
        (is_known && is_named).then_some(Parent {
            trace: TraceId(trace),
            span: SpanId(span),
            is_sampled: flags[0] & 1 == 1,
        })
    }
}

/// Exactly so many bytes in lower-case hexadecimal.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let is_hex = digits.len() == 2 * N && digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn the_standards_own_example_is_read() {
        let parent = Parent::parse(format!("00-{TRACE}-{SPAN}-01").as_bytes()).expect("valid");
        assert_eq!((parent.trace.0[0], parent.trace.0[15], parent.span.0[7]), (0x4b, 0x36, 0xb7));
        assert!(parent.is_sampled);
        assert!(!Parent::parse(format!("00-{TRACE}-{SPAN}-00").as_bytes()).expect("valid").is_sampled);
        assert!(Parent::parse(format!("cc-{TRACE}-{SPAN}-01-what-comes-later").as_bytes()).is_some());
    }

    #[test]
    fn what_is_malformed_begins_a_new_trace() {
        let zeros = |n: usize| "0".repeat(n);
        let bad = [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{}-{SPAN}-01", zeros(32)),
            format!("00-{TRACE}-{}-01", zeros(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}x-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}"),
            format!("0-{TRACE}-{SPAN}-01"),
        ];
        for text in bad {
            assert_eq!(Parent::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Parent::parse(b"00-\xff"), None);
    }
}
