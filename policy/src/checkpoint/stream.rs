//! Tensors one after the other, as they lie in memory: what a state is written as and read from, with one tensor of it in
//! memory twice.
//!
//! Each is a key, a shape and its numbers in f32; lengths are words of 64 bits, everything is little-endian. There is no table of
//! them: who reads knows what must come.

use std::io::{self, Read, Write};

use candle_core::Tensor;

use crate::model_error::ModelError;

/// Numbers converted at a time.
const CHUNK: usize = 1 << 14;
/// Bytes of a key that is not the expected one: names of tensors are far shorter, and what is not one must not fill memory.
const KEY_BYTES_MAX: usize = 1 << 8;

/// Writes one tensor: its key, its shape, its numbers row by row.
///
/// # Errors
/// When `out` refuses.
pub fn write_tensor(out: &mut impl Write, key: &str, dims: &[usize], values: &[f32]) -> io::Result<()> {
    write_word(out, key.len())?;
    out.write_all(key.as_bytes())?;
    write_word(out, dims.len())?;
    dims.iter().try_for_each(|n| write_word(out, *n))?;
    let mut bytes = [0; 4 * CHUNK];
    for chunk in values.chunks(CHUNK) {
        for (bytes, value) in bytes.chunks_exact_mut(4).zip(chunk) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        out.write_all(&bytes[..4 * chunk.len()])?;
    }
    Ok(())
}

/// Writes a number.
///
/// # Errors
/// When `out` refuses.
pub fn write_word(out: &mut impl Write, n: usize) -> io::Result<()> {
    out.write_all(&(n as u64).to_le_bytes())
}

/// Reads the tensor that was written under this key with the shape of `like`, onto its device; `io_error` says which file it was.
///
/// # Errors
/// When the reader ends early, or another tensor or another shape comes.
pub fn read_tensor(
    reader: &mut impl Read,
    key: &str,
    like: &Tensor,
    io_error: &dyn Fn(io::Error) -> ModelError,
) -> Result<Tensor, ModelError> {
    let found = read_key(reader, key.len()).map_err(io_error)?;
    if found != key.as_bytes() {
        let found = String::from_utf8_lossy(&found);
        return Err(ModelError::OptimizerState(format!("expected tensor {key}, found {found}")));
    }
    let rank = read_word(reader).map_err(io_error)?;
    let mut dims = Vec::new();
    // A rank that is too large is no reason to read on: the shapes differ already.
    for _ in 0..rank.min(1 + like.rank()) {
        dims.push(read_word(reader).map_err(io_error)?);
    }
    if dims != like.dims() {
        return Err(ModelError::TensorShape { name: key.to_owned(), expected: like.dims().to_vec(), got: dims });
    }
    let mut values = Vec::with_capacity(like.elem_count());
    let mut bytes = vec![0; 4 * CHUNK];
    while values.len() < like.elem_count() {
        let bytes = &mut bytes[..4 * CHUNK.min(like.elem_count() - values.len())];
        reader.read_exact(bytes).map_err(io_error)?;
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes a number")));
        values.extend(numbers);
    }
    Ok(Tensor::from_vec(values, dims, like.device())?)
}

/// A text that should have this length.
fn read_key(reader: &mut impl Read, expected: usize) -> io::Result<Vec<u8>> {
    let length = read_word(reader)?;
    let mut key = vec![0; length.min(KEY_BYTES_MAX.max(expected + 1))];
    reader.read_exact(&mut key)?;
    Ok(key)
}

/// Reads a number.
///
/// # Errors
/// When the reader ends early.
pub fn read_word(reader: &mut impl Read) -> io::Result<usize> {
    let mut word = [0; 8];
    reader.read_exact(&mut word)?;
    Ok(u64::from_le_bytes(word) as usize)
}
