//! Characters of a text that comes in bytes.

/// Counts the characters that begin in each piece of a text, as the text will be told: what is not UTF-8 becomes U+FFFD, one
/// for each longest beginning of a character that does not go on (Unicode 15, section 3.9; Rust's and Python's decoders).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CharCount {
    /// Bytes that the character begun last still wants.
    wanted: u8,
    /// The lowest and the highest next byte of it.
    next: (u8, u8),
}

impl CharCount {
    /// Characters that begin in the next piece: the border between two pieces may cut one.
    pub(crate) fn begun(&mut self, piece: &[u8]) -> usize {
        piece.iter().filter(|byte| self.begins(**byte)).count()
    }

    fn begins(&mut self, byte: u8) -> bool {
        if self.wanted > 0 && (self.next.0..=self.next.1).contains(&byte) {
            (self.wanted, self.next) = (self.wanted - 1, ANY);
            return false;
        }
        (self.wanted, self.next) = match byte {
            0xc2..=0xdf => (1, ANY),
            0xe0 => (2, (0xa0, 0xbf)),
            0xed => (2, (0x80, 0x9f)),
            0xe1..=0xef => (2, ANY),
            0xf0 => (3, (0x90, 0xbf)),
            0xf1..=0xf3 => (3, ANY),
            0xf4 => (3, (0x80, 0x8f)),
            _ => (0, ANY),
        };
        true
    }
}

/// Every byte that can continue a character.
const ANY: (u8, u8) = (0x80, 0xbf);

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: offsets point into the text that is told. Method: bytes that are often UTF-8 and often not, in pieces of any length,
    /// against the decoder that makes the text.
    #[test]
    fn counts_are_those_of_the_lossy_text() {
        const BYTES: [u8; 16] =
            [b'a', b'z', 0x80, 0xbf, 0x9f, 0xa0, 0x90, 0x8f, 0xc3, 0xe0, 0xed, 0xe2, 0xf0, 0xf4, 0xff, 0xc0];
        let mut state = 7u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..next() % 9).map(|_| BYTES[next() % 16]).collect();
            let whole = String::from_utf8_lossy(&bytes).chars().count();
            let mut count = CharCount::default();
            let cut = next() % (bytes.len() + 1);
            let counted = count.begun(&bytes[..cut]) + count.begun(&bytes[cut..]);
            assert_eq!(counted, whole, "{bytes:x?} cut at {cut}");
        }
    }
}
