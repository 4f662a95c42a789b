//! Numbers that carry their own proof: payment cards (Luhn), IBANs (mod 97), and US social security numbers, whose ranges are
//! known.

use std::ops::Range;

use super::{is_word, scan};

/// Digits of a payment card.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// Letters and digits of an IBAN (ISO 13616: Norway 15, the longest possible 34).
const IBAN_LEN: std::ops::RangeInclusive<usize> = 15..=34;

/// 13 to 19 digits, together or with single blanks or hyphens between them, of a network that issues cards, with a right check
/// digit.
pub(super) fn cards(text: &str) -> Vec<Range<usize>> {
    // 2 to 6: what cards begin with. Milliseconds since 1970 begin with 1.
    let starts = |before: Option<u8>, byte: u8| (b'2'..=b'6').contains(&byte) && is_free(before);
    scan(text, starts, |rest| {
        let groups = groups(rest, |byte| byte.is_ascii_digit(), *CARD_DIGITS.end());
        // As cards are printed: four, then fours or sixes, then what is left. Other groups are other numbers.
        let is_printed = |last: usize| {
            let before = |i: usize| i.checked_sub(1).map_or(0, |i| groups[i].0.len());
            let size = |i: usize| groups[i].0.len() - before(i);
            last == 0 || size(0) == 4 && size(last) <= 7 && (1..last).all(|i| size(i) == 4 || size(i) == 6)
        };
        let is_card = |last: &usize| CARD_DIGITS.contains(&groups[*last].0.len()) && luhn(&groups[*last].0);
        (0..groups.len()).rev().filter(|last| is_printed(*last)).find(is_card).map(|last| groups[last].1)
    })
}

/// Two letters, two check digits, and the account, together or in blocks of four.
pub(super) fn ibans(text: &str) -> Vec<Range<usize>> {
    let starts = |before: Option<u8>, byte: u8| byte.is_ascii_alphabetic() && before.is_none_or(|b| !is_word(b));
    scan(text, starts, |rest| {
        let is_shaped = rest.len() > 4
            && rest[..2].iter().all(u8::is_ascii_alphabetic)
            && rest[2..4].iter().all(u8::is_ascii_digit);
        if !is_shaped {
            return None;
        }
        let groups = groups(rest, |byte| byte.is_ascii_alphanumeric(), *IBAN_LEN.end());
        let is_laid_out = |last: usize| {
            last == 0
                || last + 1 == groups[last].0.len().div_ceil(4)
                    && groups[..last].iter().all(|(all, _)| all.len().is_multiple_of(4))
        };
        let is_whole = |last: &usize| IBAN_LEN.contains(&groups[*last].0.len()) && is_iban(&groups[*last].0);
        (0..groups.len()).rev().filter(|last| is_laid_out(*last)).find(is_whole).map(|last| groups[last].1)
    })
}

/// `ddd-dd-dddd`, with hyphens or blanks, in the ranges that were ever given out (SSA: no area 000, 666 or 9xx, no group 00, no
/// serial 0000).
pub(super) fn social_security(text: &str) -> Vec<Range<usize>> {
    let starts = |before: Option<u8>, byte: u8| byte.is_ascii_digit() && is_free(before);
    scan(text, starts, |rest| {
        let number = rest.get(..11)?;
        let separator = number[3];
        let is_digit = |i: &usize| number[*i].is_ascii_digit();
        let is_shaped = (separator == b'-' || separator == b' ')
            && number[6] == separator
            && (0..3).chain(4..6).chain(7..11).all(|i| is_digit(&i));
        let continues = match rest.get(11) {
            Some(b'-') => rest.get(12).is_some_and(u8::is_ascii_digit),
            Some(next) => is_word(*next),
            None => false,
        };
        let area = &number[..3];
        let is_given = area != b"000" && area != b"666" && area[0] != b'9' && &number[4..6] != b"00";
        (is_shaped && !continues && is_given && &number[7..] != b"0000").then_some(11)
    })
}

/// Nothing that a longer number or word would have before its end.
fn is_free(before: Option<u8>) -> bool {
    before.is_none_or(|before| !is_word(before) && before != b'-' && before != b'.' && before != b'+')
}

/// What stands at the beginning with single blanks or hyphens between its groups, up to the end of each group: its letters and
/// digits, and where it ends. Nothing beyond `n_max` of them, and no group that a word goes on after.
fn groups(rest: &[u8], is_part: impl Fn(u8) -> bool, n_max: usize) -> Vec<(Vec<u8>, usize)> {
    let (mut all, mut ends, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(byte) = rest.get(at).copied().filter(|byte| is_part(*byte)) {
        all.push(byte);
        at += 1;
        if all.len() > n_max {
            break;
        }
        match rest.get(at).copied() {
            Some(next) if is_part(next) => {}
            Some(next) if is_word(next) => break,
            Some(b' ' | b'-') => {
                ends.push((all.clone(), at));
                at += 1;
            }
            _ => ends.push((all.clone(), at)),
        }
    }
    ends
}

/// ISO/IEC 7812-1: from the right, every second digit doubled, its digits added; the sum is a multiple of ten.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, digit)| match (i % 2, u32::from(digit - b'0')) {
            (0, digit) => digit,
            (_, digit) => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// ISO 7064 mod 97-10: the first four to the end, letters as 10 to 35, the number leaves 1.
fn is_iban(all: &[u8]) -> bool {
    let moved = all[4..].iter().chain(&all[..4]);
    let rest = moved.fold(0_u32, |rest, byte| match byte.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => (rest * 10 + u32::from(digit - b'0')) % 97,
        letter => (rest * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    rest == 1
}
