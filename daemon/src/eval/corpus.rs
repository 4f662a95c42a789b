//! What models read before anybody judges them: text of a Markov chain, and demonstrations by careless labelers.

use policy::{TokenId, sequence_batch::Sequence, sft};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::world::{DOCUMENT, END, JUNK, LETTERS, POLITE, Prompt, Split, VOCAB, stream};

/// Successors of a word in the chain, and how likely each is.
const SUCCESSORS: [f64; 4] = [0.5, 0.25, 0.15, 0.1];
/// A document ends after each word with this probability.
const DOCUMENT_ENDS: f64 = 1.0 / 16.0;
/// Words of a document at most.
const WORDS_MAX: usize = 40;
/// A labeler gets each letter wrong with this probability.
const WRONG_LETTER: f64 = 0.2;
/// Probabilities of no, one and two polite tokens in a demonstration.
const N_POLITE: [f64; 3] = [0.5, 0.47, 0.03];
/// Probabilities of no, one and two junk tokens.
const N_JUNK: [f64; 3] = [0.65, 0.25, 0.1];

/// Pretraining text of a seed's chain, `n` documents of the stream `name`.
pub(super) fn documents(seed: u64, name: &str, n: usize) -> Vec<Sequence> {
    let mut dice = stream(seed, "chain");
    let successors: Vec<[u32; SUCCESSORS.len()]> =
        (0..VOCAB).map(|_| std::array::from_fn(|_| dice.random_range(LETTERS.start..JUNK.end))).collect();
    let mut dice = stream(seed, &format!("documents/{name}"));
    sft::texts((0..n).map(|_| document(&successors, &mut dice)).collect())
}

fn document(successors: &[[u32; SUCCESSORS.len()]], dice: &mut ChaCha8Rng) -> Vec<TokenId> {
    let mut word = dice.random_range(LETTERS.start..JUNK.end);
    let mut text = vec![DOCUMENT, TokenId(word)];
    while text.len() <= WORDS_MAX && !dice.random_bool(DOCUMENT_ENDS) {
        word = successors[word as usize][pick(&SUCCESSORS, dice)];
        text.push(TokenId(word));
    }
    text.push(END);
    text
}

/// Demonstrations for training prompts: right letters mostly, politeness half of the time, junk too often.
pub(super) fn demonstrations(seed: u64, n: usize) -> Vec<Sequence> {
    let mut dice = stream(seed, "demonstrations");
    let demonstration = |_| {
        let prompt = Prompt::draw(Split::Train, &mut dice);
        Sequence::new(&prompt.tokens(), &demonstration(prompt, &mut dice))
    };
    (0..n).map(demonstration).collect()
}

fn demonstration(prompt: Prompt, dice: &mut ChaCha8Rng) -> Vec<TokenId> {
    let mut answer = prompt.wanted().to_vec();
    for letter in &mut answer {
        if dice.random_bool(WRONG_LETTER) {
            *letter = TokenId(dice.random_range(LETTERS));
        }
    }
    for _ in 0..pick(&N_POLITE, dice) {
        // In front or at the end, as people do.
        let at = if dice.random_bool(0.3) { 0 } else { answer.len() };
        answer.insert(at, TokenId(dice.random_range(POLITE)));
    }
    for _ in 0..pick(&N_JUNK, dice) {
        let at = dice.random_range(0..=answer.len());
        answer.insert(at, TokenId(dice.random_range(JUNK)));
    }
    answer.push(END);
    answer
}

/// An index, drawn with these probabilities.
fn pick(shares: &[f64], dice: &mut ChaCha8Rng) -> usize {
    let mut rest: f64 = dice.random();
    let drawn = shares.iter().position(|share| {
        rest -= share;
        rest < 0.0
    });
    drawn.unwrap_or(shares.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::world::gold;

    #[test]
    fn another_stream_is_other_text_of_the_same_chain() {
        let pairs = |texts: &[Sequence]| -> std::collections::BTreeSet<(u32, u32)> {
            texts.iter().flat_map(|t| t.tokens[1..].windows(2).map(|w| (w[0].0, w[1].0))).collect()
        };
        let (one, other) = (documents(1, "a", 2000), documents(1, "b", 200));
        assert_ne!(one[..200], other[..]);
        assert!(pairs(&other).is_subset(&pairs(&one)));
        assert!(!pairs(&documents(2, "b", 200)).is_subset(&pairs(&one)));
    }

    #[test]
    fn demonstrations_are_good_and_not_perfect() {
        let mut dice = stream(1, "test");
        let golds = (0..2000).map(|_| {
            let prompt = Prompt::draw(Split::Train, &mut dice);
            gold(prompt, &demonstration(prompt, &mut dice))
        });
        let mean = golds.sum::<f64>() / 2000.0;
        assert!((1.3..1.9).contains(&mean), "{mean}");
    }
}
