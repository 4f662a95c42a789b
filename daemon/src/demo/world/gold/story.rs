//! Judges stories.

use crate::demo::world::{
    tables::lines,
    text::{likeness, sentences_of, with_article, words_of},
    wanted::Story,
};

/// (helpful, honest) of an answer to an instruction that wants a story.
///
/// A sentence tells an event when it holds the event's verb and last word; how well it is told is its likeness to the
/// plain sentence. helpful = the sum over the longest run of events told in order, divided by the larger of the number
/// of events and of sentences: leaving out, swapping, repeating and adding all cost. honest = 0 when an animal or a look
/// occurs that the instruction does not name: somebody was invented.
pub(super) fn judge(wanted: &Story, answer: &str) -> (f64, f64) {
    let sentences = sentences_of(answer);
    if sentences.is_empty() {
        return (0.0, 1.0);
    }
    let told: Vec<(usize, f64)> =
        sentences.iter().enumerate().filter_map(|(i, text)| recognise(wanted, text, i == 0)).collect();
    let helpful = best_in_order(&told) / wanted.events.len().max(sentences.len()) as f64;
    let known = format!("{} {}", wanted.look, wanted.animal);
    let named: Vec<String> =
        wanted.events.iter().flat_map(|event| words_of(&event.past)).chain(words_of(&known)).collect();
    let cast = lines("heroes").iter().chain(lines("looks"));
    let words = words_of(answer);
    let invented = cast.map(|word| (*word).to_owned()).any(|word| words.contains(&word) && !named.contains(&word));
    (helpful, if invented { 0.0 } else { 1.0 })
}

/// Which event a sentence tells, and how well.
fn recognise(wanted: &Story, sentence: &str, first: bool) -> Option<(usize, f64)> {
    let words = words_of(sentence);
    let event = wanted.events.iter().position(|event| {
        let (verb, last) = event.keys();
        words.iter().any(|word| word == verb) && words.iter().any(|word| word == last)
    })?;
    let plain = without_connective(&words);
    let told = words_of(&wanted.events[event].past);
    let best = subjects(wanted, first).into_iter().map(|subject| {
        let whole: Vec<String> = words_of(&subject).into_iter().chain(told.iter().cloned()).collect();
        likeness(plain, &whole)
    });
    Some((event, best.fold(0.0, f64::max)))
}

/// Who may act: the first sentence introduces the hero.
fn subjects(wanted: &Story, first: bool) -> Vec<String> {
    let full = format!("{} {}", wanted.look, wanted.animal);
    if first {
        return vec![with_article(&full)];
    }
    let named = [format!("the {}", wanted.animal), format!("the {full}")];
    named.into_iter().chain(["he", "she", "it"].map(str::to_owned)).collect()
}

/// The sentence without "One day", "Then" and their like.
fn without_connective(words: &[String]) -> &[String] {
    let connectives = ["openings", "links", "closings"].into_iter().flat_map(lines);
    let leading = connectives.map(|text| words_of(text)).filter(|phrase| words.starts_with(phrase));
    &words[leading.map(|phrase| phrase.len()).max().unwrap_or(0)..]
}

/// The largest sum of qualities over a subsequence whose events rise strictly.
fn best_in_order(told: &[(usize, f64)]) -> f64 {
    let mut best = vec![0.0_f64; told.len()];
    for (i, (event, quality)) in told.iter().enumerate() {
        let before = told[..i].iter().zip(&best).filter(|((earlier, _), _)| earlier < event).map(|(_, sum)| *sum);
        best[i] = quality + before.fold(0.0, f64::max);
    }
    best.into_iter().fold(0.0, f64::max)
}
