//! A look into a GGUF file before C++ sees it.
//!
//! llama.cpp trusts much of what a file's header says. This walk over the header (GGUF 2 and 3, little endian) reads every
//! count and length, refuses those that the file cannot hold, and refuses tensors that begin past its end: a truncated
//! download or a half-written file ends here with a sentence instead of a signal. On the way it digests all
//! `tokenizer.*` entries (tokens, types, merges, special ids, chat template), which is what makes two files speak the same
//! language.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::engine::EngineError;

const MAGIC: &[u8; 4] = b"GGUF";
/// No real header has more; a corrupt count must not become a long loop.
const COUNT_MAX: u64 = 1 << 24;
const DEPTH_MAX: u32 = 4;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_KEY: &[u8] = b"general.alignment";
const KIND_KEY: &[u8] = b"general.type";
/// GGUF's codes of a number of 32 bits and of a text.
const NUMBER: u32 = 4;
const TEXT: u32 = 8;
/// Numbers of an architecture that llama.cpp asserts instead of refusing, by the end of their key.
const ASSERTED: [(&str, std::ops::RangeInclusive<u32>); 2] = [(".block_count", 1..=512), (".expert_count", 0..=1024)];

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// Digest of the tokenizer, in hex.
    pub(crate) tokenizer: String,
    /// Whether it is an adapter, to be served beside version 0's weights.
    pub(crate) is_adapter: bool,
}

/// Checks the header of a GGUF file.
///
/// # Errors
/// [`EngineError::Load`] with what is wrong.
pub(crate) fn inspect(path: &Path) -> Result<Inspected, EngineError> {
    let refused = |reason: String| EngineError::Load { path: path.to_owned(), reason };
    let meta = std::fs::metadata(path).map_err(|e| refused(e.to_string()))?;
    if !meta.is_file() {
        return Err(refused("not a regular file".into()));
    }
    let file = File::open(path).map_err(|e| refused(e.to_string()))?;
    let mut header = Header { reader: BufReader::new(file), len: meta.len(), at: 0, alignment: 32 };
    header.walk().map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => refused("the file ends inside its header".into()),
        _ => refused(e.to_string()),
    })
}

struct Header<R> {
    reader: R,
    len: u64,
    at: u64,
    alignment: u64,
}

impl<R: Read> Header<R> {
    fn walk(&mut self) -> io::Result<Inspected> {
        if &self.array::<4>()? != MAGIC {
            return Err(bad("not a GGUF file"));
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(bad(&format!("GGUF version {version}, expected 2 or 3")));
        }
        let n_tensors = self.count("tensors")?;
        let n_entries = self.count("entries")?;
        let mut tokenizer: Vec<(Vec<u8>, [u8; 32])> = Vec::new();
        let mut is_adapter = false;
        for _ in 0..n_entries {
            let key = self.bytes()?;
            let kind = self.u32()?;
            if key == KIND_KEY && kind == TEXT {
                is_adapter = self.bytes()? == b"adapter";
                continue;
            }
            let asserted = ASSERTED.iter().find(|(end, _)| kind == NUMBER && key.ends_with(end.as_bytes()));
            if let Some((end, range)) = asserted {
                let value = self.u32()?;
                if !range.contains(&value) {
                    let (low, high) = (range.start(), range.end());
                    return Err(bad(&format!("its {end} is {value}, expected {low} to {high}")));
                }
                continue;
            }
            let mut digest = Sha256::new();
            self.value(kind, &mut digest, 0, key == ALIGNMENT_KEY)?;
            if key.starts_with(b"tokenizer.") {
                tokenizer.push((key, digest.finalize().into()));
            }
        }
        self.tensors(n_tensors)?;
        // Writers differ in the order of their keys.
        tokenizer.sort();
        let mut digest = Sha256::new();
        for (key, value) in tokenizer {
            digest.update((key.len() as u64).to_le_bytes());
            digest.update(key);
            digest.update(value);
        }
        let tokenizer = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Inspected { tokenizer, is_adapter })
    }

    /// Reads one value of type `kind` into the digest.
    fn value(&mut self, kind: u32, digest: &mut Sha256, depth: u32, is_alignment: bool) -> io::Result<()> {
        digest.update(kind.to_le_bytes());
        match kind {
            0 | 1 | 7 => digest.update(self.array::<1>()?),
            2 | 3 => digest.update(self.array::<2>()?),
            4..=6 => {
                let value = self.array::<4>()?;
                if is_alignment && kind == NUMBER {
                    self.alignment = u64::from(u32::from_le_bytes(value));
                }
                digest.update(value);
            }
            TEXT => {
                let text = self.bytes()?;
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(text);
            }
            9 if depth < DEPTH_MAX => {
                let kind = self.u32()?;
                let n = self.count("array entries")?;
                digest.update(n.to_le_bytes());
                for _ in 0..n {
                    self.value(kind, digest, depth + 1, false)?;
                }
            }
            10..=12 => digest.update(self.array::<8>()?),
            _ => return Err(bad(&format!("unknown value type {kind}"))),
        }
        Ok(())
    }

    /// Every tensor must begin inside the file; llama.cpp checks that it also ends there.
    fn tensors(&mut self, n: u64) -> io::Result<()> {
        let mut furthest = 0;
        for _ in 0..n {
            let name = self.bytes()?;
            let name = String::from_utf8_lossy(&name);
            let n_dimensions = self.u32()?;
            if n_dimensions == 0 || n_dimensions > DIMENSIONS_MAX {
                return Err(bad(&format!(
                    "tensor {name} has {n_dimensions} dimensions, expected 1 to {DIMENSIONS_MAX}"
                )));
            }
            let mut elements: u64 = 1;
            for _ in 0..n_dimensions {
                elements = elements
                    .checked_mul(self.u64()?)
                    .filter(|&elements| elements <= self.len.saturating_mul(8))
                    .ok_or_else(|| bad(&format!("tensor {name} is larger than the file")))?;
            }
            self.u32()?;
            furthest = furthest.max(self.u64()?);
        }
        if self.alignment == 0 || !self.alignment.is_power_of_two() {
            return Err(bad(&format!("alignment {}, expected a power of two", self.alignment)));
        }
        let data = self.at.next_multiple_of(self.alignment);
        if n > 0 && data.checked_add(furthest).is_none_or(|at| at >= self.len) {
            return Err(bad("a tensor begins past the end of the file"));
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self, what: &str) -> io::Result<u64> {
        let n = self.u64()?;
        if n > COUNT_MAX { Err(bad(&format!("{n} {what}"))) } else { Ok(n) }
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let n = self.u64()?;
        if n > self.len - self.at.min(self.len) {
            return Err(bad("a text is longer than the file"));
        }
        let mut bytes = vec![0; usize::try_from(n).map_err(|_| bad("a text is too long"))?];
        self.reader.read_exact(&mut bytes)?;
        self.at += n;
        Ok(bytes)
    }
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
