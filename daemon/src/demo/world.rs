//! The tiny world: a closed piece of English in which a very small model can be taught, misled, and set right.
//!
//! Instructions in InstructGPT's spirit (describe, list, name, answer, sort, rewrite, tell a story), a gold labeler that
//! can judge any answer to them, flawed demonstrations, noisy rankings, and the text of an internet that has seen better
//! manners. Everything is drawn from seeded streams: a seed and the name of a stream give the same text on every machine.
//! The parts: `world.txt` has the words, [`Wanted`] says what an instruction wants, [`judge`] judges, [`rank`] ranks.

mod answer;
mod demonstration;
mod document;
mod facts;
mod flaw;
mod gold;
mod instruction;
mod ranking;
mod split;
mod tables;
mod text;
mod wanted;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use demonstration::{CHAT, Demonstration, Demonstrations};
pub use document::Documents;
pub use gold::{Gold, judge};
pub use instruction::{Prompt, Prompts};
pub(crate) use ranking::standard_normal;
pub use ranking::{ANSWERS, rank};
pub use split::{Split, USERS, owner, split_of};
pub use wanted::{Event, Items, Kind, Sentence, Story, Wanted};

/// A world; two with the same seed are the same world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    seed: u64,
}

impl World {
    /// The world of this seed.
    pub fn new(seed: u64) -> World {
        World { seed }
    }

    /// A stream of random numbers; streams with different names are independent.
    pub fn stream(&self, name: &str) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let number = name.bytes().fold(0u64, |hash, byte| hash.wrapping_mul(257).wrapping_add(u64::from(byte) + 1));
        rng.set_stream(number);
        rng
    }

    /// Prompts of one split, for ever.
    pub fn prompts(&self, split: Split, stream: &str) -> Prompts {
        Prompts::new(split, self.stream(&format!("prompts/{split:?}/{stream}")))
    }

    /// Demonstrations for training prompts, for ever.
    pub fn demonstrations(&self, stream: &str) -> Demonstrations {
        let prompts = self.prompts(Split::Train, &format!("demonstrations/{stream}"));
        Demonstrations::new(prompts, self.stream(&format!("demonstrations/{stream}")))
    }

    /// Pretraining documents, for ever; another stream gives a held-out sample. Their questions are training prompts.
    pub fn documents(&self, stream: &str) -> Documents {
        let prompts = self.prompts(Split::Train, &format!("documents/{stream}"));
        Documents::new(prompts, self.stream(&format!("documents/{stream}")))
    }
}

/// An answer for the rankings: a good one, a garbled one, or one with a flaw; contrasts that samples of a policy lack.
pub fn staged_answer(prompt: &Prompt, questions: &[String], rng: &mut ChaCha8Rng) -> String {
    use rand::Rng;
    match (rng.random_range(0..10), questions.first()) {
        (0..3, _) | (_, None) => return answer::good(rng, &prompt.wanted),
        (3..6, Some(elsewhere)) => return flaw::garbled(rng, &prompt.wanted, elsewhere),
        _ => {}
    }
    let flaw = text::pick(rng, &flaw::Flaw::ALL);
    flaw::flawed(rng, &prompt.wanted, flaw, questions)
}

#[cfg(test)]
mod tests;
