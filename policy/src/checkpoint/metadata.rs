//! GGUF metadata in sorted order, with readers that say which key is wrong.

use std::collections::BTreeMap;

use candle_core::quantized::gguf_file::Value;

use sha2::{Digest as _, Sha256};

use super::Digest;
use crate::model_error::{ModelError, Result};

/// Keys and values, sorted: a hash map's order would leak into the file and its digest.
#[derive(Clone, Debug, Default)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// From what the reader gave.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (String, Value)>) -> Metadata {
        Metadata(entries.into_iter().collect())
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Sets or replaces one key.
    pub fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// Takes over every key of `other`.
    pub fn extend(&mut self, other: Metadata) {
        self.0.extend(other.0);
    }

    /// In sorted order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Digest of the vocabulary: all `tokenizer.*` entries (tokens, merges, special ids, chat template), in hex.
    ///
    /// Two files with the same digest speak the same language. Equal to what the engine's `Vocabulary` reports.
    #[must_use]
    pub fn vocabulary_digest(&self) -> String {
        let mut whole = Sha256::new();
        for (key, value) in self.0.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
            let mut one = Sha256::new();
            digest_value(value, &mut one);
            digest_text(key, &mut whole);
            whole.update(one.finalize());
        }
        Digest(whole.finalize().into()).to_string()
    }

    /// A text.
    ///
    /// # Errors
    /// When the key is absent or not a text.
    pub fn string(&self, key: &str) -> Result<&str> {
        match self.get(key) {
            Some(Value::String(text)) => Ok(text),
            other => Err(wrong(key, "a string", other)),
        }
    }

    /// A count of any integer type.
    ///
    /// # Errors
    /// When the key is absent or not a count.
    pub fn usize(&self, key: &str) -> Result<usize> {
        let value = self.get(key);
        value.and_then(count).ok_or_else(|| wrong(key, "a count", value))
    }

    /// As [`Metadata::usize`], with a value for an absent key. A per-layer array counts when all its entries agree.
    ///
    /// # Errors
    /// When the key is there and not a count.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            Some(_) => self.usize(key),
        }
    }

    /// A real number.
    ///
    /// # Errors
    /// When the key is absent or not a number.
    pub fn f64(&self, key: &str) -> Result<f64> {
        match self.get(key) {
            Some(Value::F32(v)) => Ok(f64::from(*v)),
            Some(Value::F64(v)) => Ok(*v),
            other => Err(wrong(key, "a number", other)),
        }
    }

    /// A real number, with a value for an absent key.
    ///
    /// # Errors
    /// When the key is there and not a number.
    pub fn f32_or(&self, key: &str, default: f32) -> Result<f32> {
        match self.get(key) {
            None => Ok(default),
            Some(_) => Ok(self.f64(key)? as f32),
        }
    }
}

/// Feeds one value with its GGUF type code, so that 1u32 and "1" differ.
fn digest_value(value: &Value, digest: &mut Sha256) {
    let code: u32 = match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    };
    digest.update(code.to_le_bytes());
    match value {
        Value::U8(v) => digest.update(v.to_le_bytes()),
        Value::I8(v) => digest.update(v.to_le_bytes()),
        Value::U16(v) => digest.update(v.to_le_bytes()),
        Value::I16(v) => digest.update(v.to_le_bytes()),
        Value::U32(v) => digest.update(v.to_le_bytes()),
        Value::I32(v) => digest.update(v.to_le_bytes()),
        Value::F32(v) => digest.update(v.to_le_bytes()),
        Value::U64(v) => digest.update(v.to_le_bytes()),
        Value::I64(v) => digest.update(v.to_le_bytes()),
        Value::F64(v) => digest.update(v.to_le_bytes()),
        Value::Bool(v) => digest.update([u8::from(*v)]),
        Value::String(v) => digest_text(v, digest),
        Value::Array(all) => {
            digest.update((all.len() as u64).to_le_bytes());
            all.iter().for_each(|v| digest_value(v, digest));
        }
    }
}

fn digest_text(text: &str, digest: &mut Sha256) {
    digest.update((text.len() as u64).to_le_bytes());
    digest.update(text.as_bytes());
}

fn count(value: &Value) -> Option<usize> {
    match value {
        Value::U8(v) => Some(usize::from(*v)),
        Value::U16(v) => Some(usize::from(*v)),
        Value::U32(v) => usize::try_from(*v).ok(),
        Value::U64(v) => usize::try_from(*v).ok(),
        Value::I8(v) => usize::try_from(*v).ok(),
        Value::I16(v) => usize::try_from(*v).ok(),
        Value::I32(v) => usize::try_from(*v).ok(),
        Value::I64(v) => usize::try_from(*v).ok(),
        Value::Array(all) => {
            let first = count(all.first()?)?;
            all.iter().all(|v| count(v) == Some(first)).then_some(first)
        }
        _ => None,
    }
}

fn wrong(key: &str, expected: &'static str, got: Option<&Value>) -> ModelError {
    let got = got.map_or_else(|| "nothing".to_owned(), |v| format!("{:.80}", format!("{v:?}")));
    ModelError::Metadata { key: key.to_owned(), expected, got }
}
