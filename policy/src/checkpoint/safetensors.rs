//! Safetensors files, read by a parser of our own: what PyTorch's trainers write.
//!
//! Eight bytes say how long a JSON object is, which says where each tensor lies in the bytes behind it. Checked before anything
//! is believed: the length against the file, every name once, types that exist, shapes whose product fits, places that have the
//! size that the shape asks for, and that together they cover the rest of the file without gap or overlap, as the format
//! demands. Such a file knows neither tokenizer nor hyperparameters, so it becomes a version only together with version 0's
//! ([`as_version`]), and must name the digest of version 0's vocabulary.

mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read, Seek, SeekFrom},
};

use candle_core::{DType, Device, Tensor};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use self::names::{Part, part_of};
use super::{Checkpoint, gguf::Malformed};
use crate::{architecture::Shape, checkpoint::Metadata};

/// Bytes of the JSON object; the format's own limit.
const HEADER_BYTES_MAX: u64 = 100 << 20;
/// Tensors of one file.
const TENSORS_MAX: usize = 1 << 16;
/// What a file says about itself in words.
const METADATA: &str = "__metadata__";
/// Key of the vocabulary's digest there.
pub const TOKENIZER: &str = "honed.tokenizer";

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Rows first.
    pub dims: Vec<usize>,
    /// Of its numbers: f32, f16 or bf16.
    pub dtype: DType,
    /// First byte in the file.
    pub start: u64,
    /// Bytes.
    pub n_bytes: u64,
}

/// A header that keeps its word.
#[derive(Clone, Debug)]
pub struct Header {
    /// What it says about itself, by key.
    pub metadata: BTreeMap<String, String>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Place>,
}

/// The pairs of a JSON object, each key once: JSON itself lets the last of two win.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Entries(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Header {
    /// Reads the header of a file of `len` bytes, `reader` standing at its first.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn read(reader: &mut impl Read, len: u64) -> Result<Header, Malformed> {
        let cut = |error: std::io::Error| bad(format!("it cannot be read: {error}"));
        let mut size = [0; 8];
        reader.read_exact(&mut size).map_err(cut)?;
        let size = u64::from_le_bytes(size);
        if size > HEADER_BYTES_MAX || size > len.saturating_sub(8) {
            return Err(bad(format!("a header of {size} bytes, expected at most what the file has and 100 MiB")));
        }
        let mut json = vec![0; usize::try_from(size).map_err(|_| bad("its header is too long"))?];
        reader.read_exact(&mut json).map_err(cut)?;
        if json.first() != Some(&b'{') {
            return Err(bad("it begins neither as a GGUF nor as a safetensors file"));
        }
        let Entries(pairs) = serde_json::from_slice(&json).map_err(|error| bad(format!("its header: {error}")))?;
        if pairs.len() > TENSORS_MAX {
            return Err(bad(format!("{} tensors, expected at most {TENSORS_MAX}", pairs.len())));
        }
        let mut header = Header { metadata: BTreeMap::new(), tensors: BTreeMap::new() };
        for (name, value) in pairs {
            if name == METADATA {
                header.metadata = words(value)?;
                continue;
            }
            let place = place(&name, value, 8 + size, len)?;
            if header.tensors.insert(name.clone(), place).is_some() {
                return Err(bad(format!("tensor {name} is there twice")));
            }
        }
        check_cover(&header.tensors, 8 + size, len)?;
        Ok(header)
    }
}

fn words(value: Value) -> Result<BTreeMap<String, String>, Malformed> {
    let Value::Object(map) = value else { return Err(bad("__metadata__: expected an object of texts")) };
    let word = |(key, value): (String, Value)| match value {
        Value::String(text) => Ok((key, text)),
        _ => Err(bad(format!("__metadata__ {key}: expected a text"))),
    };
    map.into_iter().map(word).collect()
}

fn place(name: &str, value: Value, data: u64, len: u64) -> Result<Place, Malformed> {
    let wrong = |what: String| bad(format!("tensor {name}: {what}"));
    let Value::Object(fields) = value else { return Err(wrong("expected an object".to_owned())) };
    let (dtype, size) = match fields.get("dtype").and_then(Value::as_str) {
        Some("F32") => (DType::F32, 4),
        Some("F16") => (DType::F16, 2),
        Some("BF16") => (DType::BF16, 2),
        other => return Err(wrong(format!("type {other:?}, expected F32, F16 or BF16"))),
    };
    let dims = counts(&fields, "shape").ok_or_else(|| wrong("shape: expected a list of counts".to_owned()))?;
    let n_bytes = dims.iter().try_fold(size, |product: u64, dim| product.checked_mul(*dim));
    let n_bytes = n_bytes.filter(|n| *n > 0).ok_or_else(|| wrong(format!("shape {dims:?} is none of a tensor")))?;
    let [start, end] =
        counts(&fields, "data_offsets").and_then(|ends| <[u64; 2]>::try_from(ends).ok()).unwrap_or([1, 0]);
    if end.checked_sub(start) != Some(n_bytes) {
        return Err(wrong(format!("offsets {start} to {end}, expected {n_bytes} bytes")));
    }
    if data.checked_add(end).is_none_or(|end| end > len) {
        return Err(wrong(format!("offsets {start} to {end} are not inside the file of {len} bytes")));
    }
    let dims = dims.into_iter().map(|dim| usize::try_from(dim).expect("a file holds so many")).collect();
    Ok(Place { dims, dtype, start: data + start, n_bytes })
}

fn counts(fields: &Map<String, Value>, name: &str) -> Option<Vec<u64>> {
    fields.get(name)?.as_array()?.iter().map(Value::as_u64).collect()
}

/// One tensor after the other, from the first byte to the last.
fn check_cover(tensors: &BTreeMap<String, Place>, data: u64, len: u64) -> Result<(), Malformed> {
    let mut order: Vec<(&String, &Place)> = tensors.iter().collect();
    order.sort_by_key(|(_, place)| place.start);
    let mut at = data;
    for (name, place) in order {
        if place.start != at {
            return Err(bad(format!(
                "tensor {name} begins at byte {}, expected {at}: a gap or an overlap",
                place.start
            )));
        }
        at += place.n_bytes;
    }
    if at == len { Ok(()) } else { Err(bad(format!("its tensors end at byte {at} of {len}"))) }
}

/// The file as a version beside version 0: its weights under the names of GGUF, everything else version 0's.
///
/// Llama's queries and keys lie in another order in the two formats.
///
/// # Errors
/// When it names another vocabulary, has tensors that version 0 has not or lacks some, or cannot be read.
pub fn as_version(
    file: &mut (impl Read + Seek),
    header: &Header,
    sft: &Checkpoint,
    vocabulary: &str,
) -> Result<Checkpoint, Malformed> {
    match header.metadata.get(TOKENIZER) {
        Some(digest) if digest == vocabulary => {}
        other => {
            let expected =
                format!("{METADATA} {TOKENIZER}: expected {vocabulary:?}, the digest of version 0's vocabulary");
            return Err(bad(format!("{expected}, got {other:?}")));
        }
    }
    let shape = shape_of(&sft.metadata)?;
    let mut version = Checkpoint { metadata: sft.metadata.clone(), types: sft.types.clone(), ..Checkpoint::default() };
    for (name, place) in &header.tensors {
        let wrong = |what: String| bad(format!("tensor {name}: {what}"));
        let part = part_of(name).ok_or_else(|| wrong("it is none of a Llama".to_owned()))?;
        let expected = sft.tensors.get(&part.name).ok_or_else(|| wrong(format!("version 0 has no {}", part.name)))?;
        if place.dims != expected.dims() {
            return Err(wrong(format!("expected shape {:?}, got {:?}", expected.dims(), place.dims)));
        }
        let tensor = read(file, place).map_err(|error| wrong(error.to_string()))?;
        let tensor = part.rotated(tensor, &shape).map_err(|error| wrong(error.to_string()))?;
        version.tensors.insert(part.name, tensor);
    }
    for (name, tensor) in &sft.tensors {
        // Constants of the rotation are in no file of weights.
        if Part::is_constant(name) {
            version.tensors.insert(name.clone(), tensor.clone());
        } else if !version.tensors.contains_key(name) {
            return Err(bad(format!("tensor {name} of version 0 is missing")));
        }
    }
    Ok(version)
}

fn shape_of(metadata: &Metadata) -> Result<Shape, Malformed> {
    Shape::from_metadata(metadata, 0, true).map_err(|error| bad(error.to_string()))
}

fn read(file: &mut (impl Read + Seek), place: &Place) -> candle_core::Result<Tensor> {
    let mut bytes = vec![0; usize::try_from(place.n_bytes).map_err(candle_core::Error::wrap)?];
    file.seek(SeekFrom::Start(place.start))?;
    file.read_exact(&mut bytes)?;
    Tensor::from_raw_buffer(&bytes, place.dtype, &place.dims, &Device::Cpu)?.to_dtype(DType::F32)
}

fn bad(what: impl Into<String>) -> Malformed {
    Malformed(what.into())
}
