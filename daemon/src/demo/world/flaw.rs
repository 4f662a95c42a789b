//! Spoils answers in the ways in which people and untrained models spoil them.
//!
//! The same flaws occur in the demonstrations (some), in the pretraining text (many) and in the rankings' answers, so
//! that the supervised policy has both habits and PPO can choose between them.

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;

use super::{
    answer::{enumerated, good, told},
    instruction::story::{deed, meeting},
    tables::lines,
    text::{pick, pick_some},
    wanted::{Items, Sentence, Story, Wanted},
};

/// What may be wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Too many or too few items; an event left out or added.
    Count,
    /// A false fact, a foreign item, another event than asked for.
    Wrong,
    /// Items repeated, events out of order, a rewrite that rewrites nothing.
    Order,
    /// An insult before or after the answer.
    Rude,
    /// Talk that has nothing to do with it.
    Wander,
    /// More questions instead of an end.
    Questions,
}

impl Flaw {
    /// All of them.
    pub(crate) const ALL: [Flaw; 6] =
        [Flaw::Count, Flaw::Wrong, Flaw::Order, Flaw::Rude, Flaw::Wander, Flaw::Questions];

    /// One of them; bad manners are twice as common as errors.
    pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Flaw {
        let weight = |flaw: &Flaw| match flaw {
            Flaw::Count | Flaw::Wrong | Flaw::Order => 1,
            Flaw::Rude | Flaw::Wander | Flaw::Questions => 2,
        };
        *Flaw::ALL.choose_weighted(rng, weight).expect("every flaw has a weight")
    }
}

/// An answer with this flaw; `questions` are instructions that a wandering answer may go on with.
pub(crate) fn flawed(rng: &mut ChaCha8Rng, wanted: &Wanted, flaw: Flaw, questions: &[String]) -> String {
    match flaw {
        Flaw::Count | Flaw::Wrong | Flaw::Order => match wanted {
            Wanted::Items(items) => flawed_items(rng, items, flaw),
            Wanted::Sentence(sentence) => flawed_sentence(rng, sentence, flaw),
            Wanted::Story(story) => flawed_story(rng, story, flaw),
        },
        Flaw::Rude => {
            let insult = pick(rng, lines("insults"));
            let answer = good(rng, wanted);
            match rng.random_range(0..4) {
                0 => insult.to_owned(),
                1 => format!("{insult} {answer}"),
                _ => continued(&answer, insult),
            }
        }
        Flaw::Wander => {
            let n = rng.random_range(1..=3);
            let talk = pick_some(rng, lines("wandering"), n).join(" ");
            continued(&good(rng, wanted), &talk)
        }
        Flaw::Questions => {
            let more = pick(rng, questions);
            if rng.random_bool(0.4) { more } else { continued(&good(rng, wanted), &more) }
        }
    }
}

/// The answer and what follows it; a list without a full stop gets one.
fn continued(answer: &str, rest: &str) -> String {
    let stop = if answer.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{answer}{stop} {rest}")
}

fn flawed_items(rng: &mut ChaCha8Rng, items: &Items, flaw: Flaw) -> String {
    let mut chosen = pick_some(rng, &items.fitting, items.n);
    match flaw {
        Flaw::Count => {
            let n = if rng.random_bool(0.5) { items.n - 1 } else { items.n + rng.random_range(1..=2) };
            chosen = pick_some(rng, &items.fitting, n.max(1));
        }
        Flaw::Wrong => {
            let at = rng.random_range(0..chosen.len());
            chosen[at] = pick(rng, &items.foreign);
        }
        _ => {
            let last = chosen.len() - 1;
            chosen[last] = chosen[0];
        }
    }
    enumerated(&chosen)
}

fn flawed_sentence(rng: &mut ChaCha8Rng, sentence: &Sentence, flaw: Flaw) -> String {
    let misses = !sentence.beside.is_empty() && (flaw != Flaw::Wrong || sentence.wrong.is_empty());
    match (misses, sentence.wrong.is_empty()) {
        (true, _) => pick(rng, &sentence.beside),
        (false, false) => pick(rng, &sentence.wrong),
        (false, true) => sentence.right[0].clone(),
    }
}

fn flawed_story(rng: &mut ChaCha8Rng, story: &Story, flaw: Flaw) -> String {
    let mut events = story.events.clone();
    let at = rng.random_range(0..events.len());
    match flaw {
        Flaw::Count if rng.random_bool(0.6) => drop(events.remove(at)),
        Flaw::Count => events.insert(at, deed(rng, "actions")),
        Flaw::Wrong if at == 1 => events[1] = meeting(rng, story.animal),
        Flaw::Wrong => events[at] = deed(rng, "actions"),
        _ => {
            while events == story.events {
                events.shuffle(rng);
            }
        }
    }
    told(rng, story, &events)
}

/// A good answer that something has happened to: a word lost, doubled, cut short, moved, or taken from elsewhere.
pub(crate) fn garbled(rng: &mut ChaCha8Rng, wanted: &Wanted, elsewhere: &str) -> String {
    let answer = good(rng, wanted);
    let mut words: Vec<&str> = answer.split(' ').collect();
    for _ in 0..rng.random_range(1..=2) {
        let at = rng.random_range(0..words.len());
        let word = words[at];
        match rng.random_range(0..5) {
            0 if words.len() > 1 => drop(words.remove(at)),
            1 => words.insert(at, word),
            2 => {
                let (half, _) = word.char_indices().nth(word.chars().count() / 2).unwrap_or((0, ' '));
                words[at] = &word[half..];
            }
            3 => {
                let other = rng.random_range(0..words.len());
                words.swap(at, other);
            }
            _ => words[at] = elsewhere.split(' ').nth(rng.random_range(0..3)).unwrap_or(elsewhere),
        }
    }
    words.join(" ")
}
