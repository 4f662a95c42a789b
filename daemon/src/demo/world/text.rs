//! Words and sentences of free text, and how alike two sentences are.

use rand::{Rng, seq::IndexedRandom};

/// The words of a text in lower case: runs of letters, digits and apostrophes.
pub(crate) fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\''))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// The sentences of a text: what stands between full stops, question and exclamation marks, and line ends.
pub(crate) fn sentences_of(text: &str) -> Vec<&str> {
    text.split(['.', '!', '?', '\n']).map(str::trim).filter(|sentence| !words_of(sentence).is_empty()).collect()
}

/// F1 of the longest common subsequence of words: 2·LCS / (|a| + |b|), in `0..=1`; 1 when the words are the same in the
/// same order (ROUGE-L, Lin 2004, with β = 1). Two empty texts are not alike.
pub(crate) fn likeness(a: &[String], b: &[String]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut previous = vec![0usize; b.len() + 1];
    for word in a {
        let mut row = vec![0usize; b.len() + 1];
        for (j, other) in b.iter().enumerate() {
            row[j + 1] = if word == other { previous[j] + 1 } else { row[j].max(previous[j + 1]) };
        }
        previous = row;
    }
    2.0 * previous[b.len()] as f64 / (a.len() + b.len()) as f64
}

/// The text with its first letter in upper case.
pub(crate) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// "a" or "an" before a word.
pub(crate) fn with_article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {word}", if vowel { "an" } else { "a" })
}

/// The name of a small number.
pub(crate) fn number_name(n: usize) -> &'static str {
    ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"][n]
}

/// One element, each as likely.
pub(crate) fn pick<T: Clone>(rng: &mut impl Rng, from: &[T]) -> T {
    from.choose(rng).cloned().expect("tables of the world have no empty row")
}

/// `n` different elements in random order.
pub(crate) fn pick_some<T: Clone>(rng: &mut impl Rng, from: &[T], n: usize) -> Vec<T> {
    from.choose_multiple(rng, n).cloned().collect()
}
