//! Which records are held back to be measured on.
//!
//! A person's records resemble each other, so validation is honest only on people who were never learnt from
//! (InstructGPT, section 3.2). `bucket = hash(salt, user) mod 100` puts all of a user's records on one side, and keeps them
//! there when the file grows. Records without a user go by their prompt, so that rankings of one prompt stay together.

use policy::checkpoint::Digest;

use super::dataset::Line;

/// Both sides.
pub(super) struct Split<T> {
    /// To learn from.
    pub(super) train: Vec<Line<T>>,
    /// To measure on.
    pub(super) validation: Vec<Line<T>>,
    /// How that came about, for people.
    pub(super) how: String,
}

/// Holds back the records whose bucket is below `percent`; `prompt_of` names what a record without a user is about.
pub(super) fn split<T>(lines: Vec<Line<T>>, percent: u8, salt: &str, prompt_of: impl Fn(&T) -> String) -> Split<T> {
    let n_named = lines.iter().filter(|line| line.record.user.is_some()).count();
    let by = match n_named {
        0 => "prompt, because no record names a user",
        n if n == lines.len() => "user",
        _ => "user, and by prompt where a record names none",
    };
    let is_held_back = |line: &Line<T>| {
        let (kind, name) = match &line.record.user {
            Some(user) => ("user", user.clone()),
            None => ("prompt", prompt_of(&line.record.content)),
        };
        bucket(&[salt, kind, &name]) < percent
    };
    let (validation, train): (Vec<_>, Vec<_>) = lines.into_iter().partition(is_held_back);
    let how = match percent {
        0 => "nothing is held back".to_owned(),
        _ => format!("{percent} % held back by {by}"),
    };
    Split { train, validation, how }
}

fn bucket(parts: &[&str]) -> u8 {
    // The separator is no text, so ("a", "bc") and ("ab", "c") differ.
    let bytes = parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>().join(&0xFF);
    let [a, b, c, d, e, f, g, h, ..] = Digest::of(&bytes).0;
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]) % 100) as u8
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::wire::dataset::Record;

    fn lines(n: usize, user: impl Fn(usize) -> Option<String>) -> Vec<Line<String>> {
        let record = |i: usize| Record { user: user(i), content: format!("prompt {}", i / 2) };
        (0..n).map(|i| Line { number: i + 1, record: record(i) }).collect()
    }

    #[test]
    fn nobody_stands_on_both_sides_and_about_the_share_is_held_back() {
        let users = |lines: &[Line<String>]| -> BTreeSet<String> {
            lines.iter().filter_map(|line| line.record.user.clone()).collect()
        };
        let Split { train, validation, how } =
            split(lines(3000, |i| Some((i % 300).to_string())), 20, "s", Clone::clone);
        assert!(users(&train).is_disjoint(&users(&validation)));
        assert!((400..800).contains(&validation.len()), "{}", validation.len());
        assert_eq!(how, "20 % held back by user");
    }

    #[test]
    fn a_growing_file_moves_nobody_and_another_salt_moves_many() {
        let held_back = |n, salt| -> Vec<usize> {
            let validation = split(lines(n, |_| None), 30, salt, Clone::clone).validation;
            validation.iter().map(|line| line.number).collect()
        };
        let (few, many) = (held_back(500, "s"), held_back(1000, "s"));
        assert_eq!(few, many[..few.len()]);
        assert_ne!(few, held_back(500, "t"));
        assert!(few.chunks(2).all(|pair| pair[1] == pair[0] + 1), "records of one prompt stay together: {few:?}");
    }

    #[test]
    fn nothing_is_held_back_at_zero() {
        assert!(split(lines(100, |_| None), 0, "s", Clone::clone).validation.is_empty());
    }
}
