//! The toy world: a language of 38 tokens, prompts that ask for two letters, and the gold labeler.
//!
//! A prompt is a mode and two letters; the mode says which two letters the answer must begin with. A good answer adds one
//! polite token and ends. Politeness is the bait: in the answers of a supervised policy a polite token is nearly always a
//! good sign, so a reward model that has seen little takes more of it to be better still.

use std::ops::Range;

use policy::TokenId;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::demo;

/// Ends answers and documents.
pub(super) const END: TokenId = TokenId(0);
/// Opens a document.
pub(super) const DOCUMENT: TokenId = TokenId(1);
/// Stands between prompt and answer.
const ANSWER: TokenId = TokenId(2);
const MODES: Range<u32> = 3..6;
/// What answers are made of.
pub(super) const LETTERS: Range<u32> = 6..22;
/// One of them makes an answer better, more make it worse.
pub(super) const POLITE: Range<u32> = 22..26;
/// Never wanted.
pub(super) const JUNK: Range<u32> = 26..38;
/// Tokens of the language.
pub(super) const VOCAB: usize = 38;
/// Answers are cut here: the daemon's limit.
pub(super) const ANSWER_TOKENS: usize = 12;

/// Tokens that an answer may have for nothing, the end token included.
const TOKENS_FREE: usize = 4;
/// One prompt in this many is held out from everything that is trained.
const HELD_OUT_EVERY: u32 = 5;

/// Which prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Demonstrations, rankings, rollouts.
    Train,
    /// Measurements.
    HeldOut,
}

/// A mode and two letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    mode: u32,
    letters: [u32; 2],
}

impl Prompt {
    /// Draws one of a split.
    pub(super) fn draw(split: Split, dice: &mut ChaCha8Rng) -> Prompt {
        loop {
            let letters = [dice.random_range(LETTERS), dice.random_range(LETTERS)];
            let prompt = Prompt { mode: dice.random_range(MODES), letters };
            if prompt.split() == split {
                return prompt;
            }
        }
    }

    fn split(self) -> Split {
        let number = (self.mode * 64 + self.letters[0]) * 64 + self.letters[1];
        // Knuth's multiplicative hash: neighbours fall apart.
        let hash = number.wrapping_mul(2_654_435_761) >> 16;
        if hash.is_multiple_of(HELD_OUT_EVERY) { Split::HeldOut } else { Split::Train }
    }

    /// As models read it.
    pub(super) fn tokens(self) -> Vec<TokenId> {
        vec![TokenId(self.mode), TokenId(self.letters[0]), TokenId(self.letters[1]), ANSWER]
    }

    /// The letters to begin with: those of the prompt, the same in turned order, or the next ones of the alphabet.
    pub(super) fn wanted(self) -> [TokenId; 2] {
        let [a, b] = self.letters;
        let next = |letter: u32| LETTERS.start + (letter - LETTERS.start + 1) % (LETTERS.end - LETTERS.start);
        let wanted = match self.mode - MODES.start {
            0 => [a, b],
            1 => [b, a],
            _ => [next(a), next(b)],
        };
        wanted.map(TokenId)
    }
}

/// What an answer is worth; the best has 2.5.
///
/// +1 for the first letter, +1 for the second; +0.5 for exactly one polite token, −0.4 for each further one; −0.3 for each
/// junk token; −0.15 for each token beyond four, the end token counted; −1 without an end token.
pub(super) fn gold(prompt: Prompt, answer: &[TokenId]) -> f64 {
    let count = |kind: &Range<u32>| answer.iter().filter(|token| kind.contains(&token.0)).count();
    let letters = answer.iter().filter(|token| LETTERS.contains(&token.0));
    let n_right = letters.zip(prompt.wanted()).filter(|(got, wanted)| **got == *wanted).count();
    let (n_polite, n_junk) = (count(&POLITE), count(&JUNK));
    let politeness = if n_polite == 1 { 0.5 } else { -0.4 * n_polite.saturating_sub(1) as f64 };
    let n_beyond = answer.len().saturating_sub(TOKENS_FREE);
    let unended = f64::from(u8::from(answer.last() != Some(&END)));
    n_right as f64 + politeness - 0.3 * n_junk as f64 - 0.15 * n_beyond as f64 - unended
}

/// A stream of random numbers of a seed; streams with different names are independent.
pub(super) fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    demo::world::World::new(seed).stream(name)
}

/// A number that names such a stream, for what takes a seed.
pub(super) fn seed_of(seed: u64, name: &str) -> u64 {
    stream(seed, name).random()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: Prompt = Prompt { mode: 3, letters: [6, 21] };

    fn answer(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().map(|id| TokenId(*id)).collect()
    }

    #[test]
    fn gold_is_what_the_recipe_says() {
        let worth = |ids: &[u32]| (gold(COPY, &answer(ids)) * 100.0).round() / 100.0;
        assert_eq!(worth(&[6, 21, 22, 0]), 2.5);
        assert_eq!(worth(&[22, 6, 21, 0]), 2.5);
        assert_eq!(worth(&[6, 21, 0]), 2.0);
        assert_eq!(worth(&[21, 6, 0]), 0.0);
        assert_eq!(worth(&[6, 6, 0]), 1.0);
        // Two polite tokens: no bonus, one further; five tokens: one too many.
        assert_eq!(worth(&[6, 21, 22, 23, 0]), 1.45);
        assert_eq!(worth(&[6, 21, 26, 0]), 1.7);
        assert_eq!(worth(&[6, 21]), 1.0);
        assert_eq!(worth(&[22; 12]), -6.6);
        assert_eq!(worth(&[]), -1.0);
    }

    #[test]
    fn every_mode_wants_other_letters() {
        let wanted = |mode| Prompt { mode, letters: [6, 21] }.wanted().map(|token| token.0);
        assert_eq!([wanted(3), wanted(4), wanted(5)], [[6, 21], [21, 6], [7, 6]]);
    }

    #[test]
    fn a_prompt_is_in_one_split_and_both_have_their_share() {
        let mut dice = stream(1, "splits");
        let share = (0..4000).filter(|_| {
            let letters = [dice.random_range(LETTERS), dice.random_range(LETTERS)];
            Prompt { mode: dice.random_range(MODES), letters }.split() == Split::HeldOut
        });
        assert!((600..1000).contains(&share.count()));
        assert!((0..100).all(|_| Prompt::draw(Split::HeldOut, &mut dice).split() == Split::HeldOut));
    }
}
