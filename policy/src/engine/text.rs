//! The text of a response while it grows: whole characters only, and nothing that may turn out to begin a stop text.

/// Bytes of drawn tokens in, certain text out.
#[derive(Debug, Default)]
pub(super) struct TextStream {
    stops: Vec<String>,
    /// The beginning of a character whose end has not been drawn.
    incomplete: Vec<u8>,
    /// Decoded text that is a beginning of a stop text.
    held: String,
}

/// What one token did to the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// Text that is certain now.
    pub(super) text: String,
    /// A stop text was completed; it and what follows are not part of the response's text.
    pub(super) stopped: bool,
}

impl TextStream {
    pub(super) fn new(stops: &[String]) -> TextStream {
        TextStream { stops: stops.to_vec(), ..TextStream::default() }
    }

    /// Adds a token's bytes. Stop texts count only while `armed`.
    pub(super) fn push(&mut self, bytes: &[u8], armed: bool) -> Pushed {
        self.decode(bytes);
        if !armed || self.stops.is_empty() {
            return Pushed { text: std::mem::take(&mut self.held), stopped: false };
        }
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            self.incomplete.clear();
            return Pushed { text: std::mem::take(&mut self.held), stopped: true };
        }
        let certain = self.held.len() - self.stop_prefix_len();
        let rest = self.held.split_off(certain);
        Pushed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The text that was still held back when the response ended for another reason.
    pub(super) fn finish(&mut self) -> String {
        let mut tail = std::mem::take(&mut self.held);
        tail.push_str(&String::from_utf8_lossy(&self.incomplete));
        self.incomplete.clear();
        tail
    }

    /// Appends what is decodable to `held`, byte for byte as `String::from_utf8_lossy` would have it over the whole text.
    fn decode(&mut self, bytes: &[u8]) {
        self.incomplete.extend_from_slice(bytes);
        let mut rest: &[u8] = &self.incomplete;
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(std::str::from_utf8(valid).expect("valid_up_to ends at a character"));
                    rest = after;
                    let Some(broken) = error.error_len() else {
                        break;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[broken..];
                }
            }
        }
        self.incomplete = rest.to_vec();
    }

    /// Length of the longest end of `held` that begins a stop text.
    fn stop_prefix_len(&self) -> usize {
        let begins = |stop: &String| {
            let longest = self.held.len().min(stop.len() - 1);
            (1..=longest).rev().find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
        };
        let n = self.stops.iter().map(begins).max().unwrap_or(0);
        // A stop text's bytes may end inside a character of its own; hold that character whole.
        (n..=self.held.len()).find(|&n| self.held.is_char_boundary(self.held.len() - n)).unwrap_or(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pieces: &[&[u8]], stops: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut stream = TextStream::new(&stops);
        let mut text = String::new();
        for piece in pieces {
            let pushed = stream.push(piece, true);
            text.push_str(&pushed.text);
            if pushed.stopped {
                return (text, true);
            }
        }
        text.push_str(&stream.finish());
        (text, false)
    }

    /// Goal: however the bytes are cut, the stream's text is that of the whole. Method: every cut of a text with long
    /// characters, broken bytes and a broken end.
    #[test]
    fn any_split_gives_the_lossy_text_of_the_whole() {
        let bytes = b"a\xF0\x9F\x90\xBB\xC3\xA9\xFF\xE2\x82x\xF0\x9F";
        let want = String::from_utf8_lossy(bytes);
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(stream(&pieces, &["zz"]), (want.clone().into_owned(), false));
            }
        }
        let each: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(stream(&each, &[]).0, want);
    }

    #[test]
    fn a_stop_text_ends_the_text_before_itself_however_it_is_cut() {
        let text = b"one two\nUser: three";
        for at in 0..text.len() {
            assert_eq!(stream(&[&text[..at], &text[at..]], &["\nUser:", "zz"]), ("one two".into(), true));
        }
        let each: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(stream(&each, &["\nUser:"]), ("one two".into(), true));
    }

    #[test]
    fn the_earliest_of_several_stops_wins() {
        assert_eq!(stream(&[b"abcdef"], &["ef", "cd"]), ("ab".into(), true));
    }

    #[test]
    fn a_beginning_that_leads_nowhere_is_given_back() {
        assert_eq!(stream(&[b"x\nUs", b"eless"], &["\nUser:"]), ("x\nUseless".into(), false));
        assert_eq!(stream(&[b"x\nUs"], &["\nUser:"]), ("x\nUs".into(), false));
        let mut held = TextStream::new(&["\nUser:".into()]);
        assert_eq!(held.push(b"x\nUs", true).text, "x");
        assert_eq!(held.push(b"\nU", true).text, "\nUs");
    }

    #[test]
    fn a_stop_with_long_characters_is_held_at_character_borders() {
        assert_eq!(stream(&["é".as_bytes(), "ü".as_bytes(), b"x"], &["éü"]), (String::new(), true));
        // "ê" shares its first byte with "é".
        assert_eq!(stream(&["ê".as_bytes(), b"x"], &["é"]), ("êx".into(), false));
    }

    #[test]
    fn a_disarmed_stream_lets_stops_pass() {
        let mut stream = TextStream::new(&["ab".into()]);
        assert_eq!(stream.push(b"ab", false), Pushed { text: "ab".into(), stopped: false });
    }
}
