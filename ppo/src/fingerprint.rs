//! A fingerprint of numbers in memory: whether two learners hold the same bits, at the speed of reading them.
//!
//! A published file has a SHA-256, because strangers handle it. The state behind it is six times as large, changes at every
//! update and is compared with itself only, so what it needs is speed: SHA-256 of it would take a tenth of an update. Four
//! lanes of xor, multiply by an odd constant and shift, each a bijection of its lane, see every single changed word for
//! certain and everything else but for a chance of 2⁻¹²⁸ or so. It finds accidents; it does not stop an attacker.

use std::fmt;

use rayon::prelude::*;

/// Odd, with as many ones as zeros.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Where the lanes start, so that equal words in different lanes do not cancel.
const LANES: [u64; 4] = [0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];
/// Numbers that one task reads.
const CHUNK: usize = 1 << 16;

/// 128 bits, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u64; 2]);

/// What takes in numbers and texts, in order.
pub(crate) struct Fingerprinter {
    lanes: [u64; 4],
    n_words: u64,
}

impl Fingerprinter {
    pub(crate) fn new() -> Fingerprinter {
        Fingerprinter { lanes: LANES, n_words: 0 }
    }

    pub(crate) fn word(&mut self, word: u64) {
        let lane = &mut self.lanes[(self.n_words % 4) as usize];
        *lane = mix(*lane, word);
        self.n_words += 1;
    }

    /// With its length, so that two texts never read as one.
    pub(crate) fn text(&mut self, text: &str) {
        self.word(text.len() as u64);
        for bytes in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.word(u64::from_le_bytes(word));
        }
    }

    /// Bits of every number; the result does not depend on the number of threads.
    pub(crate) fn floats(&mut self, values: &[f32]) {
        self.word(values.len() as u64);
        let chunks: Vec<[u64; 4]> = values.par_chunks(CHUNK).map(lanes_of).collect();
        chunks.into_iter().flatten().for_each(|word| self.word(word));
    }

    pub(crate) fn finish(mut self) -> Fingerprint {
        let n_words = self.n_words;
        self.word(n_words);
        let [a, b, c, d] = self.lanes;
        Fingerprint([mix(mix(a, b), c.rotate_left(31)), mix(mix(c, d), a.rotate_left(31))])
    }
}

fn lanes_of(values: &[f32]) -> [u64; 4] {
    let mut lanes = LANES;
    let mut pieces = values.chunks_exact(8);
    for piece in &mut pieces {
        for (lane, pair) in lanes.iter_mut().zip(piece.chunks_exact(2)) {
            *lane = mix(*lane, u64::from(pair[0].to_bits()) << 32 | u64::from(pair[1].to_bits()));
        }
    }
    for (i, value) in pieces.remainder().iter().enumerate() {
        lanes[i % 4] = mix(lanes[i % 4], u64::from(value.to_bits()));
    }
    lanes
}

fn mix(lane: u64, word: u64) -> u64 {
    let mixed = (lane ^ word).wrapping_mul(MULTIPLIER);
    mixed ^ (mixed >> 29)
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32]) -> Fingerprint {
        let mut taking = Fingerprinter::new();
        taking.floats(values);
        taking.finish()
    }

    /// Goal: one flipped bit anywhere is seen. Method: the last bit of each number in turn, across a chunk's end and in the
    /// remainder.
    #[test]
    fn every_bit_counts_and_so_does_the_order() {
        let values: Vec<f32> = (0..CHUNK + 13).map(|i| (i as f32).sin()).collect();
        let whole = of(&values);
        for at in [0, 1, 7, 8, CHUNK - 1, CHUNK, CHUNK + 7, CHUNK + 8, CHUNK + 12] {
            let mut changed = values.clone();
            changed[at] = f32::from_bits(changed[at].to_bits() ^ 1);
            assert_ne!(of(&changed), whole, "number {at}");
        }
        let mut swapped = values.clone();
        swapped.swap(3, CHUNK + 3);
        assert_ne!(of(&swapped), whole);
        assert_ne!(of(&[0.0]), of(&[-0.0]));
        assert_ne!(of(&[0.0]), of(&[0.0, 0.0]));
    }

    #[test]
    fn threads_change_nothing() {
        let values: Vec<f32> = (0..3 * CHUNK + 5).map(|i| (i as f32).cos()).collect();
        let with = |n: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| of(&values))
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn texts_are_told_apart_by_where_they_end() {
        let of = |texts: &[&str]| {
            let mut taking = Fingerprinter::new();
            texts.iter().for_each(|text| taking.text(text));
            taking.finish()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }
}
