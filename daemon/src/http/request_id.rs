//! A name for every request, in its answer and in every log line that is written while it is handled.
//!
//! A client may bring its own, so that its log and ours can be read together; what could break a line or fill a log is
//! replaced by a name of ours.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rand::RngCore;

/// Where clients put it and find it.
pub(crate) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The name as handlers see it.
#[derive(Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Bytes of a client's own name at most.
const BYTES_MAX: usize = 128;

/// The client's name for its request, when it is a plain word, or a fresh one of 64 random bits.
pub(crate) fn of(headers: &HeaderMap) -> HeaderValue {
    let theirs = headers.get(&REQUEST_ID_HEADER).filter(|value| is_plain(value.as_bytes()));
    theirs.cloned().unwrap_or_else(|| {
        let ours = format!("req-{:016x}", rand::rng().next_u64());
        HeaderValue::from_str(&ours).expect("letters, digits and a hyphen are a header value")
    })
}

fn is_plain(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    !id.is_empty() && id.len() <= BYTES_MAX && id.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_value(value: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID_HEADER, HeaderValue::from_bytes(value).expect("a header value"));
        of(&headers).to_str().expect("plain").to_owned()
    }

    #[test]
    fn plain_names_are_kept_and_others_replaced() {
        assert_eq!(of_value(b"a1b2-c3:d/4"), "a1b2-c3:d/4");
        for odd in [&b""[..], b"a b", b"a\tb", b"\xff", b"\"x\"", &[b'a'; 129]] {
            assert!(of_value(odd).starts_with("req-"), "{odd:?}");
        }
        assert_ne!(of(&HeaderMap::new()), of(&HeaderMap::new()));
    }
}
