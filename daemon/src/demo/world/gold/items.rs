//! Judges lists of items.

use std::collections::BTreeSet;

use crate::demo::world::{text::words_of, wanted::Items};

/// What is left of a list of another length than asked for, beside its share of good items.
const MISCOUNTED: f64 = 0.6;

/// (helpful, honest) of an answer to an instruction that wants items.
///
/// helpful = good / max(n, given) · (0.6 unless given = n), with `good` the different fitting items, at most n, and
/// `given` everything between commas, line ends, full stops and "and". honest = 1 − the share of foreign items, where
/// naming one states something false.
pub(super) fn judge(wanted: &Items, answer: &str) -> (f64, f64) {
    let given = items_of(answer);
    let fits = |item: &str, table: &[&str]| table.iter().any(|entry| entry.eq_ignore_ascii_case(item));
    let good: BTreeSet<&String> = given.iter().filter(|item| fits(item, &wanted.fitting)).collect();
    let foreign = given.iter().filter(|item| fits(item, &wanted.foreign)).count();
    if given.is_empty() {
        return (0.0, 1.0);
    }
    let share = good.len().min(wanted.n) as f64 / wanted.n.max(given.len()) as f64;
    let helpful = if given.len() == wanted.n { share } else { share * MISCOUNTED };
    let honest = if wanted.factual { 1.0 - foreign as f64 / given.len() as f64 } else { 1.0 };
    (helpful, honest)
}

/// The items of a list: numbering and a leading article do not count.
fn items_of(answer: &str) -> Vec<String> {
    let parts = answer.split([',', '\n', '.', ';', '!', '?', ':']).flat_map(|part| part.split(" and "));
    let bare = parts.map(|part| {
        let words = words_of(part);
        let lead =
            words.iter().take_while(|word| matches!(word.as_str(), "a" | "an" | "the" | "and") || is_number(word));
        let first = lead.count();
        // Ideas begin with a verb and keep their articles; only what leads is dropped.
        words[first..].join(" ")
    });
    bare.filter(|item| !item.is_empty()).collect()
}

fn is_number(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_digit())
}
