//! Instructions that want one sentence about what is so: facts, yes/no, sorting, opposites, closed questions.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::demo::world::{
    facts::{RELATIONS, Relation, fill},
    tables::{lines, rows},
    text::{capitalised, pick, pick_some, with_article},
    wanted::{Sentence, Wanted},
};

/// "What color is the sky?"
pub(super) fn fact(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let (relation, subject, value) = draw_fact(rng);
    let question = fill(pick(rng, &relation.questions), subject, value);
    let others = relation.values.iter().filter(|other| **other != value);
    let sentence = Sentence {
        right: vec![relation.sentence(subject, value)],
        bare: vec![format!("{}.", capitalised(value))],
        wrong: others
            .flat_map(|other| [relation.sentence(subject, other), format!("{}.", capitalised(other))])
            .collect(),
        beside: Vec::new(),
    };
    (question, Wanted::Sentence(sentence))
}

/// "Is the sky green?"
pub(super) fn check(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let (relation, subject, value) = draw_fact(rng);
    let claim = if rng.random_bool(0.5) { value } else { pick(rng, &relation.values) };
    let question = fill(pick(rng, &relation.checks), subject, claim);
    let truth = relation.sentence(subject, value);
    let (word, other) = if claim == value { ("Yes", "No") } else { ("No", "Yes") };
    let reply = |word: &str, sentence: &str| {
        let (first, rest) = sentence.split_at(1);
        format!("{word}, {}{rest}", first.to_lowercase())
    };
    let falsehoods = relation.values.iter().filter(|v| **v != value).map(|v| relation.sentence(subject, v));
    let wrong = falsehoods.flat_map(|sentence| [reply(word, &sentence), reply(other, &sentence)]);
    let sentence = Sentence {
        right: vec![reply(word, &truth)],
        bare: vec![format!("{word}.")],
        wrong: wrong.chain([reply(other, &truth), format!("{other}.")]).collect(),
        beside: vec![truth],
    };
    (question, Wanted::Sentence(sentence))
}

/// "Is a carrot a fruit or a vegetable?"
pub(super) fn sort(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    // The first two categories share no article with mass nouns; colors and clothes are no "a red".
    let fit = |plural: &&str| !["colors", "drinks"].contains(plural);
    let categories: Vec<_> = rows("categories")
        .iter()
        .filter_map(|row| row.head.split_once(" | ").map(|(plural, singular)| (plural, singular, &row.items)))
        .filter(|(plural, ..)| fit(plural))
        .collect();
    let two = pick_some(rng, &categories, 2);
    let (right, wrong) = (two[0], two[1]);
    let x = with_article(pick(rng, right.2));
    let (a, b) = if rng.random_bool(0.5) { (right.1, wrong.1) } else { (wrong.1, right.1) };
    let question = pick(rng, lines("ask sort")).replace("{x}", &x).replace("{a}", a).replace("{b}", b);
    let say = |category: &str| format!("{} is {category}.", capitalised(&x));
    let sentence = Sentence {
        right: vec![say(right.1)],
        bare: vec![format!("{}.", capitalised(right.1))],
        wrong: vec![say(wrong.1), format!("{}.", capitalised(wrong.1))],
        beside: Vec::new(),
    };
    (question, Wanted::Sentence(sentence))
}

/// "What is the opposite of hot?"
pub(super) fn opposite(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let pairs = rows("opposites");
    let row = pick(rng, pairs);
    let (x, y) = if rng.random_bool(0.5) { (row.head, row.items[0]) } else { (row.items[0], row.head) };
    let question = pick(rng, lines("ask opposite")).replace("{x}", x);
    let say = |word: &str| format!("The opposite of {x} is {word}.");
    let words = pairs.iter().flat_map(|row| [row.head, row.items[0]]);
    let sentence = Sentence {
        right: vec![say(y)],
        bare: vec![format!("{}.", capitalised(y))],
        wrong: words
            .filter(|word| *word != y)
            .flat_map(|word| [say(word), format!("{}.", capitalised(word))])
            .collect(),
        beside: Vec::new(),
    };
    (question, Wanted::Sentence(sentence))
}

/// "Mia has a red ball. Tom has a blue kite. What does Tom have?"
pub(super) fn recall(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let people = pick_some(rng, lines("people"), 2);
    let things = pick_some(rng, lines("belongings"), 2);
    let colors = rows("categories").iter().find(|row| row.head.starts_with("colors")).expect("colors are a category");
    let colors = pick_some(rng, &colors.items, 2);
    let has = |person: usize, thing: usize| format!("{} has a {} {}.", people[person], colors[thing], things[thing]);
    let asked = rng.random_range(0..2);
    let question = if rng.random_bool(0.5) {
        format!("What does {} have?", people[asked])
    } else {
        format!("Who has a {} {}?", colors[asked], things[asked])
    };
    let sentence = Sentence {
        right: vec![has(asked, asked)],
        bare: Vec::new(),
        wrong: vec![has(asked, 1 - asked), has(1 - asked, asked)],
        beside: vec![has(1 - asked, 1 - asked)],
    };
    (format!("{} {} {question}", has(0, 0), has(1, 1)), Wanted::Sentence(sentence))
}

fn draw_fact(rng: &mut ChaCha8Rng) -> (&'static Relation, &'static str, &'static str) {
    // By pair, not by relation: every fact is asked about as often.
    let n: usize = RELATIONS.iter().map(|relation| relation.pairs.len()).sum();
    let mut ticket = rng.random_range(0..n);
    for relation in RELATIONS.iter() {
        if let Some((subject, value)) = relation.pairs.get(ticket) {
            return (relation, subject, value);
        }
        ticket -= relation.pairs.len();
    }
    unreachable!("the ticket is below the number of facts")
}
