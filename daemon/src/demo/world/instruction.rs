//! Draws instructions: a kind, a template, fillers, a frame.

mod items;
mod rewrites;
mod sentences;
pub(crate) mod story;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    split::{Split, owner, split_of},
    tables::lines,
    text::pick,
    wanted::{Kind, Wanted},
};

/// One instruction with its owner and with what it wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Who asks.
    pub user: String,
    /// What for.
    pub kind: Kind,
    /// The text.
    pub instruction: String,
    /// What a good answer is.
    pub wanted: Wanted,
}

/// How an instruction is framed: a question keeps other company than a command.
#[derive(Clone, Copy)]
enum Mood {
    Question,
    Command,
}

/// Draws prompts of one split for ever; the same stream always gives the same prompts.
pub struct Prompts {
    split: Split,
    rng: ChaCha8Rng,
}

impl Prompts {
    pub(super) fn new(split: Split, rng: ChaCha8Rng) -> Prompts {
        Prompts { split, rng }
    }
}

impl Iterator for Prompts {
    type Item = Prompt;

    fn next(&mut self) -> Option<Prompt> {
        loop {
            let prompt = draw(&mut self.rng);
            if split_of(&prompt.user) == self.split {
                return Some(prompt);
            }
        }
    }
}

/// A prompt of any split.
fn draw(rng: &mut ChaCha8Rng) -> Prompt {
    let kind = draw_kind(rng);
    let (instruction, wanted) = match kind {
        Kind::Describe => items::describe(rng),
        Kind::List => items::list(rng),
        Kind::Names => items::names(rng),
        Kind::Ideas => items::ideas(rng),
        Kind::Fact => sentences::fact(rng),
        Kind::Check => sentences::check(rng),
        Kind::Sort => sentences::sort(rng),
        Kind::Opposite => sentences::opposite(rng),
        Kind::Recall => sentences::recall(rng),
        Kind::Rewrite => rewrites::rewrite(rng),
        Kind::Story => story::story(rng),
    };
    let mood = if instruction.ends_with('?') { Mood::Question } else { Mood::Command };
    let instruction = match kind {
        // The text to work on stands last or first, so a frame would blur where it ends.
        Kind::Rewrite | Kind::Recall => instruction,
        _ => framed(rng, mood, &instruction),
    };
    Prompt { user: owner(&instruction), kind, instruction, wanted }
}

fn draw_kind(rng: &mut ChaCha8Rng) -> Kind {
    let total: u32 = Kind::SHARES.iter().map(|(_, share)| share).sum();
    let mut ticket = rng.random_range(0..total);
    for (kind, share) in Kind::SHARES {
        if ticket < share {
            return kind;
        }
        ticket -= share;
    }
    unreachable!("the ticket is below the sum of the shares")
}

fn framed(rng: &mut ChaCha8Rng, mood: Mood, instruction: &str) -> String {
    let frames = match mood {
        Mood::Question => lines("frame question"),
        Mood::Command => lines("frame command"),
    };
    pick(rng, frames).replace("{q}", instruction)
}
