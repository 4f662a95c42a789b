//! Telephone numbers that cannot well be anything else: `+` and a country's number (E.164), North American `(ddd) ddd-dddd` and its
//! like, area codes in parentheses, and five pairs of digits as in France.

use std::ops::Range;

use super::{is_word, scan};

/// Digits of an international number (E.164: fifteen at most).
const DIGITS: std::ops::RangeInclusive<usize> = 8..=15;

pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let starts = |before: Option<u8>, byte: u8| {
        let is_free = before.is_none_or(|before| !is_word(before) && !b"-.+/".contains(&before));
        is_free && (byte == b'+' || byte == b'(' || byte.is_ascii_digit())
    };
    scan(text, starts, |rest| match rest[0] {
        b'+' => international(rest),
        b'(' => area(rest).or_else(|| shaped(rest, &AMERICAN_IN_PARENTHESES)),
        _ => AMERICAN.iter().find_map(|shape| shaped(rest, shape)).or_else(|| shaped(rest, &PAIRS)),
    })
}

/// One place of a shape.
#[derive(Clone, Copy)]
enum Place {
    /// Any digit.
    Any,
    /// 2 to 9: what area codes and exchanges of North America begin with.
    High,
    /// This very character.
    Is(u8),
    /// A blank, a dot or a hyphen, the same throughout.
    Separator,
    /// A blank or nothing.
    Maybe,
}

use Place::{Any, High, Is, Maybe, Separator};

const AMERICAN: [&[Place]; 2] = [
    &[High, Any, Any, Separator, High, Any, Any, Separator, Any, Any, Any, Any],
    &[Is(b'1'), Separator, High, Any, Any, Separator, High, Any, Any, Separator, Any, Any, Any, Any],
];
const AMERICAN_IN_PARENTHESES: [Place; 14] =
    [Is(b'('), High, Any, Any, Is(b')'), Maybe, High, Any, Any, Separator, Any, Any, Any, Any];
const PAIRS: [Place; 14] =
    [Is(b'0'), Any, Separator, Any, Any, Separator, Any, Any, Separator, Any, Any, Separator, Any, Any];

/// Bytes of this shape at the beginning, if nothing goes on after it.
fn shaped(rest: &[u8], shape: &[Place]) -> Option<usize> {
    let (mut at, mut separator) = (0, None);
    for place in shape {
        let byte = rest.get(at).copied();
        let fits = match place {
            Maybe => {
                at += usize::from(byte == Some(b' '));
                continue;
            }
            Any => byte.is_some_and(|byte| byte.is_ascii_digit()),
            High => byte.is_some_and(|byte| (b'2'..=b'9').contains(&byte)),
            Is(wanted) => byte == Some(*wanted),
            Separator => byte.is_some_and(|byte| b" .-".contains(&byte) && *separator.get_or_insert(byte) == byte),
        };
        if !fits {
            return None;
        }
        at += 1;
    }
    ends(rest, at).then_some(at)
}

/// Whether a number may end here: no word goes on, and no hyphen or dot with a digit behind it.
fn ends(rest: &[u8], at: usize) -> bool {
    match rest.get(at) {
        None => true,
        Some(b'-' | b'.') => !rest.get(at + 1).is_some_and(u8::is_ascii_digit),
        Some(next) => !is_word(*next),
    }
}

/// `+` and digits with single separators, or parentheses, between them.
fn international(rest: &[u8]) -> Option<usize> {
    let has_country = match rest.get(1..3)? {
        // Country 1: an area code begins with 2 to 9.
        [b'1', next] => !next.is_ascii_digit() || (b'2'..=b'9').contains(next),
        [first, _] => (b'2'..=b'9').contains(first),
        _ => false,
    };
    let found = grouped(rest, 1)?;
    // One dot is a decimal point.
    (has_country && found.n_dots != 1).then_some(found.len)
}

/// An area code with its trunk 0 in parentheses, and the number behind it: `(030) 1234-567`.
fn area(rest: &[u8]) -> Option<usize> {
    let close = rest.iter().take(8).position(|byte| *byte == b')')?;
    let is_code = close >= 4 && rest[1] == b'0' && rest[1..close].iter().all(u8::is_ascii_digit);
    let found = grouped(rest, 0).filter(|_| is_code)?;
    (found.len > close).then_some(found.len)
}

/// Digits with separators between them.
struct Grouped {
    len: usize,
    n_dots: usize,
}

/// As many groups as keep the number of digits in its bounds; the last one must be able to be the last.
fn grouped(rest: &[u8], from: usize) -> Option<Grouped> {
    let (mut at, mut n_digits, mut n_dots, mut n_between, mut found) = (from, 0, 0, 0, None);
    while let Some(byte) = rest.get(at) {
        match byte {
            b'0'..=b'9' => {
                (n_digits, n_between) = (n_digits + 1, 0);
                let is_last = !rest.get(at + 1).is_some_and(u8::is_ascii_digit);
                if is_last && DIGITS.contains(&n_digits) && !rest.get(at + 1).is_some_and(|next| is_word(*next)) {
                    found = Some(Grouped { len: at + 1, n_dots });
                }
            }
            b' ' | b'-' | b'.' | b'/' | b'(' | b')' => {
                let is_parenthesis = matches!(byte, b'(' | b')');
                n_between += usize::from(!is_parenthesis);
                n_dots += usize::from(*byte == b'.');
                // `+20 - 30` is a sum; `+49 (0) 30` is a number.
                let touches = at > 0 && matches!(rest[at - 1], b'(' | b')');
                if n_between > 1 && !touches {
                    break;
                }
            }
            _ => break,
        }
        if n_digits > *DIGITS.end() {
            break;
        }
        at += 1;
    }
    found
}
