//! What a GGUF file says about itself, read by a parser of our own before C++ or candle look at it.
//!
//! Both trust much of a header: a count becomes an allocation, a wrong type of a known key an assertion that ends the process.
//! So every file is walked here first (versions 2 and 3, little endian): magic, counts against limits and against the bytes
//! that are left, lengths of texts, nesting of lists, each key and each tensor named once, types that exist, dimensions whose
//! product fits, whole blocks in every row, alignment, and every tensor inside the file with no two of them overlapping.
//!
//! Nothing is allocated that the file could not fill, and lists come out of one budget, so a hostile header costs no more than
//! an honest one. On the way all `tokenizer.*` entries are digested as their bytes stand: two files with the same digest speak
//! the same language.

mod cursor;
mod tensor_type;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io::{BufReader, Read},
};

use candle_core::quantized::gguf_file::Value;
use sha2::{Digest as _, Sha256};

use self::cursor::Cursor;
pub use self::tensor_type::{Scales, TensorType};
use super::{Digest, Metadata};

const MAGIC: &[u8; 4] = b"GGUF";
/// Keys of one file; real ones have some forty.
const KEYS_MAX: u64 = 1 << 12;
/// Tensors of one file; the largest models have some thousands.
const TENSORS_MAX: u64 = 1 << 16;
/// Bytes of a key (GGUF's own limit) and of a tensor's name (ggml's, its closing zero left out).
const KEY_BYTES_MAX: u64 = (1 << 16) - 1;
const NAME_BYTES_MAX: u64 = 63;
/// ggml's limit.
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 20;

/// A file that is none, or not one that we would hand on: a sentence about it, without its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// Where one tensor lies and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rows first, as everywhere here but in the file.
    pub dims: Vec<u64>,
    /// Of its numbers.
    pub kind: TensorType,
    /// First byte in the file.
    pub start: u64,
    /// Bytes.
    pub n_bytes: u64,
}

/// A header that keeps its word.
#[derive(Clone, Debug)]
pub struct Header {
    /// Everything that is not a tensor.
    pub metadata: Metadata,
    /// Digest of all `tokenizer.*` entries, hex.
    pub vocabulary_digest: String,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Place>,
}

impl Header {
    /// Walks the header of a file of `len` bytes, `reader` standing at its first.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn read(reader: impl Read, len: u64) -> Result<Header, Malformed> {
        let mut cursor = Cursor::new(BufReader::with_capacity(1 << 16, reader), len);
        if &cursor.array::<4>()? != MAGIC {
            return Err(bad("it does not begin as a GGUF file"));
        }
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(bad(format!("GGUF version {version}, expected 2 or 3, little endian")));
        }
        let n_tensors = cursor.count("tensors", TENSORS_MAX)?;
        let n_keys = cursor.count("keys", KEYS_MAX)?;
        let (metadata, vocabulary_digest) = entries(&mut cursor, n_keys)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = BTreeMap::new();
        for _ in 0..n_tensors {
            let (name, place) = tensor(&mut cursor, alignment)?;
            if let Some(twice) = tensors.insert(name.clone(), place) {
                return Err(bad(format!("tensor {name} is there twice, with dimensions {:?} too", twice.dims)));
            }
        }
        // Offsets count from here; the header is no longer than the file, so the sum is far from 2^64.
        settle(&mut tensors, cursor.at().next_multiple_of(alignment), len)?;
        Ok(Header { metadata, vocabulary_digest, tensors })
    }
}

/// All keys with their values, and the digest of those about the tokenizer.
fn entries<R: Read>(cursor: &mut Cursor<R>, n_keys: u64) -> Result<(Metadata, String), Malformed> {
    let mut metadata = Metadata::default();
    let mut tokenizer: Vec<(String, [u8; 32])> = Vec::new();
    for _ in 0..n_keys {
        let key = cursor.name("a key", KEY_BYTES_MAX)?;
        let mut digest = Sha256::new();
        let value = cursor.value(&mut digest).map_err(|Malformed(what)| bad(format!("key {key}: {what}")))?;
        if metadata.get(&key).is_some() {
            return Err(bad(format!("key {key} is there twice")));
        }
        if key.starts_with("tokenizer.") {
            tokenizer.push((key.clone(), digest.finalize().into()));
        }
        metadata.set(&key, value);
    }
    // Writers differ in the order of their keys.
    tokenizer.sort();
    let mut digest = Sha256::new();
    for (key, value) in tokenizer {
        digest.update((key.len() as u64).to_le_bytes());
        digest.update(key);
        digest.update(value);
    }
    Ok((metadata, Digest(digest.finalize().into()).to_string()))
}

/// llama.cpp asserts that this key holds 32 bits, so another type would end the process.
fn alignment(metadata: &Metadata) -> Result<u64, Malformed> {
    match metadata.get(ALIGNMENT) {
        None => Ok(ALIGNMENT_DEFAULT),
        Some(Value::U32(bytes)) if bytes.is_power_of_two() && u64::from(*bytes) <= ALIGNMENT_MAX => {
            Ok(u64::from(*bytes))
        }
        Some(other) => Err(bad(format!(
            "key {ALIGNMENT}: expected a power of two of 32 bits, at most {ALIGNMENT_MAX}, got {other:?}"
        ))),
    }
}

/// One tensor's entry; its start is still the offset after the header.
fn tensor<R: Read>(cursor: &mut Cursor<R>, alignment: u64) -> Result<(String, Place), Malformed> {
    let name = cursor.name("a tensor's name", NAME_BYTES_MAX)?;
    let wrong = |what: String| bad(format!("tensor {name}: {what}"));
    let n_dims = cursor.u32()?;
    if n_dims == 0 || n_dims > DIMENSIONS_MAX {
        return Err(wrong(format!("{n_dims} dimensions, expected 1 to {DIMENSIONS_MAX}")));
    }
    let mut dims = (0..n_dims).map(|_| cursor.u64()).collect::<Result<Vec<u64>, _>>()?;
    let code = cursor.u32()?;
    let start = cursor.u64()?;
    let kind = TensorType::of(code).ok_or_else(|| wrong(format!("type {code} is not known")))?;
    // The file has the length of a row first.
    let n_bytes = kind.n_bytes(&dims).map_err(wrong)?;
    if !start.is_multiple_of(alignment) {
        return Err(wrong(format!("it begins at offset {start}, expected a multiple of {alignment}")));
    }
    dims.reverse();
    Ok((name, Place { dims, kind, start, n_bytes }))
}

/// Turns offsets into places in the file, which must hold them all, each for itself.
fn settle(tensors: &mut BTreeMap<String, Place>, data: u64, len: u64) -> Result<(), Malformed> {
    for (name, place) in tensors.iter_mut() {
        let start = data.checked_add(place.start);
        let end = start.and_then(|start| start.checked_add(place.n_bytes)).filter(|end| *end <= len);
        let (Some(start), Some(_)) = (start, end) else {
            return Err(bad(format!(
                "tensor {name}: {} bytes at offset {} are not inside the file of {len} bytes",
                place.n_bytes, place.start
            )));
        };
        place.start = start;
    }
    let mut order: Vec<(&String, &Place)> = tensors.iter().collect();
    order.sort_by_key(|(_, place)| place.start);
    for pair in order.windows(2) {
        let ((before, first), (after, second)) = (pair[0], pair[1]);
        if first.start + first.n_bytes > second.start {
            return Err(bad(format!("tensors {before} and {after} overlap")));
        }
    }
    Ok(())
}

fn bad(what: impl Into<String>) -> Malformed {
    Malformed(what.into())
}
