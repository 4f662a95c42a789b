//! E-mail addresses: `local@domain.tld`, letters of any script.

use std::ops::Range;

/// Characters of the local part at most (RFC 5321, 4.5.3.1.1: octets).
const LOCAL_MAX: usize = 64;
/// Characters of the domain at most.
const DOMAIN_MAX: usize = 255;

/// Around every `@` that has something on both sides.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.match_indices('@') {
        let free = spans.last().map_or(0, |span| span.end);
        let (local, domain) = (local_len(&text[free.min(at)..at]), domain_len(&text[at + 1..]));
        if let (true, Some(domain)) = (at >= free && local > 0, domain) {
            spans.push(at - local..at + 1 + domain);
        }
    }
    spans
}

/// Bytes of the local part at the end of this text.
fn local_len(before: &str) -> usize {
    let is_local = |c: &char| c.is_alphanumeric() || "._%+-'!#$&*/=?^`{|}~".contains(*c);
    let taken = before.chars().rev().take(LOCAL_MAX).take_while(is_local).map(char::len_utf8).sum::<usize>();
    let local = &before[before.len() - taken..];
    // Quotes and punctuation before an address are not its beginning.
    local.trim_start_matches(|c: char| !c.is_alphanumeric()).len()
}

/// Bytes of a domain at the beginning of this text: labels with dots between them, the last of two letters or more.
fn domain_len(after: &str) -> Option<usize> {
    let is_domain = |c: &char| c.is_alphanumeric() || *c == '-' || *c == '.';
    let taken = after.chars().take(DOMAIN_MAX).take_while(is_domain).map(char::len_utf8).sum::<usize>();
    let mut domain = &after[..taken];
    loop {
        domain = domain.trim_end_matches(['.', '-']);
        let (rest, top) = domain.rsplit_once('.')?;
        let is_top = top.chars().count() >= 2 && (top.chars().all(char::is_alphabetic) || top.starts_with("xn--"));
        if is_top && rest.split('.').all(|label| !label.is_empty()) {
            return Some(domain.len());
        }
        // `a@b.org.1`: what cannot be a top-level domain may follow a whole address.
        domain = rest;
    }
}
