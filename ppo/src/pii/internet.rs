//! IPv4 and IPv6 addresses. Loopback and unspecified addresses are everybody's, and stay.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{is_word, scan};

/// Bytes of a written address at most (`ffff:…:255.255.255.255`).
const LEN_MAX: usize = 45;

pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let starts = |before: Option<u8>, byte: u8| {
        let is_free = before.is_none_or(|before| !is_word(before) && before != b'.' && before != b':');
        is_free && (byte.is_ascii_hexdigit() || byte == b':')
    };
    scan(text, starts, |rest| version_6(rest).or_else(|| version_4(rest)))
}

/// Bytes at the beginning that are all of these, as text.
fn run(rest: &[u8], is_part: impl Fn(u8) -> bool) -> (&str, Option<u8>) {
    let len = rest.iter().take_while(|byte| is_part(**byte)).count();
    (std::str::from_utf8(&rest[..len]).unwrap_or_default(), rest.get(len).copied())
}

fn version_4(rest: &[u8]) -> Option<usize> {
    let (text, next) = run(rest, |byte| byte.is_ascii_digit() || byte == b'.');
    // The dot of a sentence; a dot before more digits is inside `text` and makes it no address.
    let text = text.strip_suffix('.').unwrap_or(text);
    let address: Ipv4Addr = text.parse().ok()?;
    let is_everybodys = address.is_loopback() || address.is_unspecified();
    (!is_everybodys && !next.is_some_and(is_word)).then_some(text.len())
}

fn version_6(rest: &[u8]) -> Option<usize> {
    let (text, next) = run(rest, |byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.');
    let text = text.strip_suffix('.').unwrap_or(text);
    let text = text.strip_suffix(':').filter(|text| !text.ends_with(':')).unwrap_or(text);
    // `dead::beef` is more often a path of names than an address; those that are given out hold a digit.
    if text.len() > LEN_MAX || !text.bytes().any(|byte| byte.is_ascii_digit()) || next.is_some_and(is_word) {
        return None;
    }
    let address: Ipv6Addr = text.parse().ok()?;
    (!address.is_loopback() && !address.is_unspecified()).then_some(text.len())
}
