//! Numbers, texts and lists off a reader that may lie about their lengths.

use std::io::{self, Read};

use candle_core::quantized::gguf_file::Value;
use sha2::{Digest as _, Sha256};

use super::{Malformed, bad};

/// Entries of all lists of one file together: thrice the tokens and merges of the largest vocabularies.
const VALUES_MAX: u64 = 1 << 22;
/// Lists within lists.
const DEPTH_MAX: u32 = 4;
/// Bytes of a header: metadata is kept in memory.
const HEADER_BYTES_MAX: u64 = 1 << 28;
/// GGUF's code of a list.
const LIST: u32 = 9;

/// A position in a header.
pub(super) struct Cursor<R> {
    reader: R,
    /// Bytes that the header may have.
    len: u64,
    at: u64,
    n_values_left: u64,
}

impl<R: Read> Cursor<R> {
    /// `len`: bytes of the whole file.
    pub(super) fn new(reader: R, len: u64) -> Cursor<R> {
        Cursor { reader, len: len.min(HEADER_BYTES_MAX), at: 0, n_values_left: VALUES_MAX }
    }

    /// Bytes that were read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    fn left(&self) -> u64 {
        self.len - self.at
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Malformed> {
        if bytes.len() as u64 > self.left() {
            return Err(bad("the file ends inside its header"));
        }
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => bad("the file ends inside its header"),
            _ => bad(format!("it cannot be read: {error}")),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// How many of something follow.
    pub(super) fn count(&mut self, what: &str, max: u64) -> Result<u64, Malformed> {
        let n = self.u64()?;
        if n <= max { Ok(n) } else { Err(bad(format!("{n} {what}, expected at most {max}"))) }
    }

    /// A text that names something: UTF-8 without control characters, not empty.
    pub(super) fn name(&mut self, what: &str, bytes_max: u64) -> Result<String, Malformed> {
        let bytes = self.text()?;
        if bytes.is_empty() || bytes.len() as u64 > bytes_max {
            return Err(bad(format!("{what} of {} bytes, expected 1 to {bytes_max}", bytes.len())));
        }
        let text = String::from_utf8(bytes).map_err(|_| bad(format!("{what} is not UTF-8")))?;
        if text.chars().any(char::is_control) {
            return Err(bad(format!("{what} holds control characters")));
        }
        Ok(text)
    }

    fn text(&mut self) -> Result<Vec<u8>, Malformed> {
        let n = self.u64()?;
        if n > self.left() {
            return Err(bad(format!("a text of {n} bytes is longer than what follows it")));
        }
        let mut bytes = vec![0; usize::try_from(n).map_err(|_| bad("a text is too long"))?];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A value with its type before it; what it is made of goes into the digest.
    pub(super) fn value(&mut self, digest: &mut Sha256) -> Result<Value, Malformed> {
        let kind = self.u32()?;
        self.value_of(kind, 0, digest)
    }

    fn value_of(&mut self, kind: u32, depth: u32, digest: &mut Sha256) -> Result<Value, Malformed> {
        digest.update(kind.to_le_bytes());
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.number(digest)?)),
            1 => Value::I8(i8::from_le_bytes(self.number(digest)?)),
            2 => Value::U16(u16::from_le_bytes(self.number(digest)?)),
            3 => Value::I16(i16::from_le_bytes(self.number(digest)?)),
            4 => Value::U32(u32::from_le_bytes(self.number(digest)?)),
            5 => Value::I32(i32::from_le_bytes(self.number(digest)?)),
            6 => Value::F32(f32::from_le_bytes(self.number(digest)?)),
            7 => match self.number::<1>(digest)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(bad(format!("a boolean of {other}, expected 0 or 1"))),
            },
            8 => {
                let text = self.text()?;
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(&text);
                // Pieces of tokens need not be UTF-8; the digest has them as they are.
                Value::String(String::from_utf8_lossy(&text).into_owned())
            }
            LIST => Value::Array(self.list(depth, digest)?),
            10 => Value::U64(u64::from_le_bytes(self.number(digest)?)),
            11 => Value::I64(i64::from_le_bytes(self.number(digest)?)),
            12 => Value::F64(f64::from_le_bytes(self.number(digest)?)),
            other => return Err(bad(format!("value type {other} is not known"))),
        })
    }

    fn number<const N: usize>(&mut self, digest: &mut Sha256) -> Result<[u8; N], Malformed> {
        let bytes = self.array()?;
        digest.update(bytes);
        Ok(bytes)
    }

    fn list(&mut self, depth: u32, digest: &mut Sha256) -> Result<Vec<Value>, Malformed> {
        if depth == DEPTH_MAX {
            return Err(bad(format!("lists within lists, more than {DEPTH_MAX} deep")));
        }
        let kind = self.u32()?;
        let n = self.count("entries of lists", self.n_values_left)?;
        self.n_values_left -= n;
        let bytes_least = n * bytes_least(kind);
        if bytes_least > self.left() {
            return Err(bad(format!("a list of {n} entries is longer than what follows it")));
        }
        digest.update(n.to_le_bytes());
        (0..n).map(|_| self.value_of(kind, depth + 1, digest)).collect()
    }
}

/// Bytes that a value of this type takes at least.
fn bytes_least(kind: u32) -> u64 {
    match kind {
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        LIST => 12,
        _ => 1,
    }
}
