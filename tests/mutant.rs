//! A fuzzer that is a test: mutants of good inputs, and of whatever made a target answer in a new way.
//!
//! Included by path (`#[path]`) into the unit tests of each crate whose parsers meet bytes from outside, so that private ones
//! are reached without an arrow between crates. It needs neither a nightly compiler nor instrumentation: where a coverage-guided
//! fuzzer watches branches, this one watches answers. A target returns what it made of the input (an error's words, a kind of
//! result); an input that is answered in a way not seen before is kept and mutated further.
//!
//! A plain run makes a fixed number of mutants from a fixed seed. `HONED_FUZZ_SECONDS` (`make fuzz SECONDS=600`) runs each
//! target so long instead, from a seed of its own each time, and says which; `HONED_FUZZ_SEED` repeats one. A mutant that
//! breaks a target is written to a file whose name is printed.

#![allow(dead_code, reason = "not every crate uses every part")]

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant, SystemTime},
};

/// Inputs that are kept at most.
const CORPUS_MAX: usize = 4096;
/// Bytes of a mutant at most.
const BYTES_MAX: usize = 1 << 16;
/// Numbers that break sums.
const WILD: [u64; 10] = [0, 1, 7, 0x7f, 0xff, 1 << 31, 1 << 32, 1 << 62, i64::MAX as u64, u64::MAX];

/// Runs `target` on mutants of `seeds`. `words` are pasted in where they may mean something. The target panics when it is wrong.
pub(crate) fn fuzz(
    name: &str,
    seeds: &[Vec<u8>],
    words: &[&str],
    n_mutants: u64,
    mut target: impl FnMut(&[u8]) -> String,
) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let limit = number("HONED_FUZZ_SECONDS").map(Duration::from_secs);
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
    let seed = number("HONED_FUZZ_SEED").unwrap_or_else(|| limit.map_or(1, |_| clock()));
    let mut dice = Dice(seed);
    let mut corpus: VecDeque<Vec<u8>> = seeds.iter().cloned().collect();
    let mut seen: HashSet<String> = seeds.iter().map(|seed| class(&target(seed))).collect();
    let (started, mut n) = (Instant::now(), 0);
    while limit.map_or(n < n_mutants, |limit| started.elapsed() < limit) {
        let mutant = dice.mutant(&corpus, words);
        let witness = Witness { name, seed, mutant: &mutant };
        let answer = target(&mutant);
        drop(witness);
        n += 1;
        if seen.insert(class(&answer)) {
            if corpus.len() == CORPUS_MAX {
                // The seeds stay; of what was found, the oldest goes.
                corpus.remove(seeds.len());
            }
            corpus.push_back(mutant);
        }
    }
    let elapsed = started.elapsed().as_secs_f64();
    eprintln!("{name}: {n} mutants, {} ways of answering, in {elapsed:.0} s, seed {seed}: no finding", seen.len());
    assert!(seen.len() > 3, "{name}: mutants that are all answered alike test nothing");
}

/// An answer without its numbers: `offset 17` and `offset 18` are one way of answering.
fn class(answer: &str) -> String {
    answer.chars().filter(|c| !c.is_ascii_digit()).take(120).collect()
}

/// Writes the mutant down when the target panics over it.
struct Witness<'a> {
    name: &'a str,
    seed: u64,
    mutant: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("honed-{}-{}.mutant", self.name, self.seed));
            let written = std::fs::write(&path, self.mutant);
            eprintln!("{}: seed {}: the mutant is in {} ({written:?})", self.name, self.seed, path.display());
        }
    }
}

/// splitmix64: the same on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 for 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn mutant(&mut self, corpus: &VecDeque<Vec<u8>>, words: &[&str]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            // Most of what can be said wrongly stands at the beginning.
            let reach = if self.below(4) > 0 { bytes.len().min(1024) } else { bytes.len() };
            let at = self.below(reach);
            self.change(&mut bytes, at, corpus, words);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, at: usize, corpus: &VecDeque<Vec<u8>>, words: &[&str]) {
        let end = |n: usize| (at + n).min(bytes.len());
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let n = [1, 2, 4, 8][self.below(4)];
                let (end, wild) = (end(n), WILD[self.below(WILD.len())].to_le_bytes());
                bytes[at..end].copy_from_slice(&wild[..end - at]);
            }
            4 => {
                let end = end(1 + self.below(32));
                drop(bytes.drain(at..end));
            }
            5 => {
                let piece = bytes[at..end(1 + self.below(32))].to_vec();
                let to = self.below(bytes.len() + 1);
                drop(bytes.splice(to..to, piece));
            }
            6 if !words.is_empty() => {
                let word = words[self.below(words.len())].bytes();
                let end = if self.below(2) == 0 { at } else { end(word.len()) };
                drop(bytes.splice(at..end, word));
            }
            _ => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len());
                let piece = other[from..(from + 1 + self.below(64)).min(other.len())].to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
}
