//! What in a text looks like personal data, and the text without it.
//!
//! InstructGPT filtered the prompts of its training split for personally identifiable information (Ouyang et al. 2022,
//! section 3.2). This filter knows *formats*: e-mail addresses, telephone numbers that are written internationally or in one of
//! a few national ways, payment card numbers (Luhn), IBANs (mod 97), IPv4 and IPv6 addresses, US social security numbers. It does
//! not know names, postal addresses, dates of birth, or "joe at example dot org"; nobody should think that a text without
//! formats is a text without people.
//!
//! Each format is a scanner by hand. Where checksums or number plans exist they are checked, because what is taken for personal
//! data does not train: a false alarm costs an exchange, a missed one somebody's privacy. So in doubt it is taken for data: a
//! version number of four parts is an address as well.

mod email;
mod internet;
mod numbers;
mod phone;
#[cfg(test)]
mod tests;

use std::ops::Range;

/// Finds one format: where it stands, in order and without overlaps. Bytes; both ends are ends of characters.
type Scanner = fn(&str) -> Vec<Range<usize>>;

/// What is looked for, in this order: what contains another comes first.
const FORMATS: [(&str, Scanner); 6] = [
    ("[EMAIL]", email::find),
    ("[IBAN]", numbers::ibans),
    ("[IP]", internet::find),
    ("[CARD]", numbers::cards),
    ("[SSN]", numbers::social_security),
    ("[PHONE]", phone::find),
];

/// An exchange as text, without what looked like personal data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedactedText {
    /// The prompt.
    pub prompt: String,
    /// The response.
    pub response: String,
}

/// The text with a word such as `[EMAIL]` in the place of what looks like personal data; `None` where nothing does. What it
/// returns holds nothing that it would find again.
#[must_use]
pub fn redacted(text: &str) -> Option<String> {
    let mut current = without(text)?;
    // What stands beside a word in brackets may look like something that it did not before. Each pass takes characters that no
    // pass puts back, so this ends.
    while let Some(next) = without(&current) {
        current = next;
    }
    Some(current)
}

/// A prompt and its response, each for itself and as the one text that they are: an address may begin in the one and end in the
/// other. `None` where there is nothing.
#[must_use]
pub fn redacted_exchange(prompt: &str, response: &str) -> Option<RedactedText> {
    let mut text = RedactedText { prompt: prompt.to_owned(), response: response.to_owned() };
    let mut found = false;
    while let Some(next) = apart(&text).or_else(|| across(&text)) {
        (text, found) = (next, true);
    }
    found.then_some(text)
}

/// The same without what either part holds.
fn apart(text: &RedactedText) -> Option<RedactedText> {
    let (prompt, response) = (redacted(&text.prompt), redacted(&text.response));
    if prompt.is_none() && response.is_none() {
        return None;
    }
    Some(RedactedText {
        prompt: prompt.unwrap_or_else(|| text.prompt.clone()),
        response: response.unwrap_or_else(|| text.response.clone()),
    })
}

/// The same without the first thing that stands on the boundary.
fn across(text: &RedactedText) -> Option<RedactedText> {
    let whole = format!("{}{}", text.prompt, text.response);
    let boundary = text.prompt.len();
    let found = FORMATS.iter().find_map(|(word, scanner)| {
        let over = |span: &Range<usize>| span.start < boundary && boundary < span.end;
        scanner(&whole).into_iter().find(over).map(|span| (word, span))
    });
    let (word, span) = found?;
    Some(RedactedText { prompt: format!("{}{word}", &whole[..span.start]), response: whole[span.end..].to_owned() })
}

/// One pass over every format.
fn without(text: &str) -> Option<String> {
    let mut current: Option<String> = None;
    for (word, scanner) in FORMATS {
        let before = current.as_deref().unwrap_or(text);
        let spans = scanner(before);
        if spans.is_empty() {
            continue;
        }
        let (mut after, mut at) = (String::with_capacity(before.len()), 0);
        for span in spans {
            after.push_str(&before[at..span.start]);
            after.push_str(word);
            at = span.end;
        }
        after.push_str(&before[at..]);
        current = Some(after);
    }
    current
}

/// Every span that `end_of` finds from a place where something may begin, left to right; it is given the rest of the text.
///
/// - `may_begin`: of the byte before (if there is one) and the byte at the place.
fn scan(
    text: &str,
    may_begin: impl Fn(Option<u8>, u8) -> bool,
    end_of: impl Fn(&[u8]) -> Option<usize>,
) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut spans, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        match may_begin(before, bytes[at]).then(|| end_of(&bytes[at..])).flatten() {
            Some(len) => {
                spans.push(at..at + len);
                at += len;
            }
            None => at += 1,
        }
    }
    spans
}

/// Whether a byte is part of a word: letters, digits, `_`, and every byte of what is not ASCII.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}
