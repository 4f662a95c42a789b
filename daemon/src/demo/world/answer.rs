//! Writes good answers: what the best labeler of the tiny world would write.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    tables::lines,
    text::{capitalised, pick, pick_some, with_article},
    wanted::{Event, Story, Wanted},
};

/// A good answer, one of several.
pub(crate) fn good(rng: &mut ChaCha8Rng, wanted: &Wanted) -> String {
    match wanted {
        Wanted::Items(items) => enumerated(&pick_some(rng, &items.fitting, items.n)),
        Wanted::Sentence(sentence) => {
            let first = rng.random_bool(0.7);
            let curt = !sentence.bare.is_empty() && rng.random_bool(0.2);
            match (curt, first) {
                (true, _) => pick(rng, &sentence.bare),
                (false, true) => sentence.right[0].clone(),
                (false, false) => pick(rng, &sentence.right),
            }
        }
        Wanted::Story(story) => told(rng, story, &story.events),
    }
}

/// "vast, deep, tranquil"
pub(crate) fn enumerated(items: &[&str]) -> String {
    items.join(", ")
}

/// Tells these events, in this order, as a story of this hero.
pub(crate) fn told(rng: &mut ChaCha8Rng, story: &Story, events: &[Event]) -> String {
    let hero = format!("{} {}", with_article(story.look), story.animal);
    let pronoun = if rng.random_bool(0.7) { "he".to_owned() } else { format!("the {}", story.animal) };
    let mut sentences = Vec::with_capacity(events.len());
    for (i, event) in events.iter().enumerate() {
        let (table, subject) = match i {
            0 => ("openings", &hero),
            _ if i + 1 == events.len() => ("closings", &pronoun),
            _ => ("links", &pronoun),
        };
        sentences.push(format!("{} {subject} {}.", pick(rng, lines(table)), event.past));
    }
    debug_assert!(sentences.iter().all(|sentence| *sentence == capitalised(sentence)));
    sentences.join(" ")
}
