//! Pretraining text: what the tiny world's internet looks like.
//!
//! Facts, stories, lists and workbooks; and forums, where questions appear and the answers wander off, go on asking, or insult. A
//! model of it knows the words and the facts and has no habit of answering.

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    answer::{enumerated, good, told},
    facts::RELATIONS,
    flaw::{Flaw, flawed},
    instruction::{Prompt, Prompts, story::draw_story},
    tables::{Row, lines, rows},
    text::{capitalised, pick, pick_some, with_article},
    wanted::Wanted,
};

/// Documents for ever.
pub struct Documents {
    prompts: Prompts,
    rng: ChaCha8Rng,
}

impl Documents {
    pub(super) fn new(prompts: Prompts, rng: ChaCha8Rng) -> Documents {
        Documents { prompts, rng }
    }

    /// A workbook's page: two exercises with their solutions, one of them a question.
    fn workbook(&mut self) -> Option<String> {
        let is_question = |prompt: &Prompt| matches!(prompt.wanted, Wanted::Sentence(_));
        let exercises = [self.prompts.next()?, self.prompts.find(is_question)?];
        let solved = exercises.map(|prompt| format!("{}\n{}", prompt.instruction, good(&mut self.rng, &prompt.wanted)));
        Some(solved.join("\n\n"))
    }

    /// A question and what somebody wrote below it.
    fn forum(&mut self) -> Option<String> {
        let prompt = self.prompts.next()?;
        let others: Vec<String> = self.prompts.by_ref().take(2).map(|other| other.instruction).collect();
        let rng = &mut self.rng;
        let answer = match rng.random_range(0..10) {
            0..4 => good(rng, &prompt.wanted),
            4..9 => {
                let flaw = Flaw::draw(rng);
                flawed(rng, &prompt.wanted, flaw, &others)
            }
            _ => others.join("\n"),
        };
        Some(format!("{}\n{answer}", prompt.instruction))
    }
}

impl Iterator for Documents {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let rng = &mut self.rng;
        match rng.random_range(0..20) {
            0..4 => Some(facts(rng)),
            4..6 => Some(descriptions(rng)),
            6..8 => Some(categories(rng)),
            8 => Some(odds_and_ends(rng)),
            9..11 => {
                let story = draw_story(rng);
                Some(told(rng, &story, &story.events))
            }
            11..16 => self.workbook(),
            _ => self.forum(),
        }
    }
}

/// True statements, one after the other.
fn facts(rng: &mut ChaCha8Rng) -> String {
    let n = rng.random_range(2..=4);
    let sentence = |rng: &mut ChaCha8Rng| {
        let relation =
            RELATIONS.choose_weighted(rng, |relation| relation.pairs.len() as f64).expect("every relation has pairs");
        let (subject, value) = pick(rng, &relation.pairs);
        relation.sentence(subject, value)
    };
    (0..n).map(|_| sentence(rng)).collect::<Vec<_>>().join(" ")
}

/// "The ocean is vast, deep and wild."
fn descriptions(rng: &mut ChaCha8Rng) -> String {
    let sentences = pick_some(rng, rows("things"), 2).into_iter().map(|Row { head, items }| {
        let words = pick_some(rng, &items, 3);
        format!("{} is {}, {} and {}.", capitalised(head), words[0], words[1], words[2])
    });
    sentences.collect::<Vec<_>>().join(" ")
}

/// "Fruits: pear, plum, cherry. A pear is a fruit."
fn categories(rng: &mut ChaCha8Rng) -> String {
    let category = pick(rng, rows("categories"));
    let (plural, singular) = category.head.split_once(" | ").expect("a category has a plural and a singular");
    let n = rng.random_range(3..=5);
    let some = pick_some(rng, &category.items, n);
    let list = format!("{}: {}.", capitalised(plural), enumerated(&some));
    if ["colors", "drinks"].contains(&plural) {
        return list;
    }
    format!("{list} {} is {singular}.", capitalised(&with_article(some[0])))
}

/// Opposites, ideas, and talk.
fn odds_and_ends(rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..3) {
        0 => {
            let row = pick(rng, rows("opposites"));
            let (x, y) = (row.head, row.items[0]);
            format!("The opposite of {x} is {y}. The opposite of {y} is {x}.")
        }
        1 => {
            let row = pick(rng, rows("occasions"));
            format!("Ideas for {}: {}.", row.head, enumerated(&pick_some(rng, &row.items, 3)))
        }
        _ => pick_some(rng, lines("wandering"), 3).join(" "),
    }
}
