//! Demonstrations: what labelers wrote for the supervised stage, most of it decent, much of it flawed.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    answer::good,
    flaw::{Flaw, flawed},
    instruction::{Prompt, Prompts},
};

/// Share of demonstrations with a flaw: what leaves PPO room.
const FLAWED: f64 = 0.7;
/// Share of prompts in the chat format; the others are plain completions.
pub const CHAT: f64 = 0.75;

/// One demonstration.
#[derive(Clone, Debug, PartialEq)]
pub struct Demonstration {
    /// The prompt.
    pub prompt: Prompt,
    /// The labeler's answer.
    pub answer: String,
    /// Whether the prompt is put as a chat message or as plain text.
    pub chat: bool,
}

/// Demonstrations for ever.
pub struct Demonstrations {
    prompts: Prompts,
    rng: ChaCha8Rng,
}

impl Demonstrations {
    pub(super) fn new(prompts: Prompts, rng: ChaCha8Rng) -> Demonstrations {
        Demonstrations { prompts, rng }
    }
}

impl Iterator for Demonstrations {
    type Item = Demonstration;

    fn next(&mut self) -> Option<Demonstration> {
        let prompt = self.prompts.next()?;
        let answer = if self.rng.random_bool(FLAWED) {
            let flaw = Flaw::draw(&mut self.rng);
            let others = [self.prompts.next()?.instruction];
            flawed(&mut self.rng, &prompt.wanted, flaw, &others)
        } else {
            good(&mut self.rng, &prompt.wanted)
        };
        Some(Demonstration { prompt, answer, chat: self.rng.random_bool(CHAT) })
    }
}
