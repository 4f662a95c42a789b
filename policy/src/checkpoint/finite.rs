//! Whether every number of a weight file is one.
//!
//! One NaN in a matrix is a NaN in every logit, and an infinite scale of a quantised block is as bad as an infinite weight.
//! The file is read once from front to back, in pieces, without dequantising anything.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use super::{
    gguf::{Header, Malformed, Place, Scales},
    header_of_file,
};
use crate::model_error::ModelError;

/// Bytes of one piece, about.
const PIECE: u64 = 1 << 20;

/// Looks at every number that could be infinite or none.
///
/// # Errors
/// With the first tensor that holds such a number, or whose type is not looked into, or when the file cannot be read.
pub fn check_finite(file: &mut (impl Read + Seek), header: &Header) -> Result<(), Malformed> {
    let mut order: Vec<(&String, &Place)> = header.tensors.iter().collect();
    order.sort_by_key(|(_, place)| place.start);
    let mut piece = Vec::new();
    for (name, place) in order {
        let wrong = |what: String| Malformed(format!("tensor {name}: {what}"));
        if place.kind.scales == Scales::Unknown {
            return Err(wrong(format!("type {} is not one whose numbers can be checked", place.kind.name)));
        }
        file.seek(SeekFrom::Start(place.start)).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
        let block = place.kind.block_bytes;
        let mut n_left = place.n_bytes;
        while n_left > 0 {
            let n = n_left.min((PIECE / block).max(1) * block);
            piece.resize(usize::try_from(n).expect("a piece is small"), 0);
            file.read_exact(&mut piece).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
            let block = usize::try_from(block).expect("blocks are small");
            if let Some(at) = first_broken(place.kind.scales, block, &piece) {
                let at = (place.n_bytes - n_left) / place.kind.block_bytes + at as u64;
                return Err(wrong(format!("it is not finite at number {}", at * place.kind.block)));
            }
            n_left -= n;
        }
    }
    Ok(())
}

/// The header of a file and every number in it that is looked into: of a type that is not, nothing is said, because llama.cpp may
/// serve it all the same.
///
/// # Errors
/// As [`header_of_file`], or with the first tensor that holds an infinity or no number.
pub fn check_whole(path: &Path) -> Result<(), ModelError> {
    let mut header = header_of_file(path)?;
    header.tensors.retain(|_, place| place.kind.scales != Scales::Unknown);
    let mut file = File::open(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
    check_finite(&mut file, &header).map_err(|source| ModelError::Malformed { path: path.to_owned(), source })
}

/// The first block with an infinity or a NaN.
fn first_broken(scales: Scales, block: usize, bytes: &[u8]) -> Option<usize> {
    let mut blocks = bytes.chunks_exact(block);
    // All bits of the exponent set is an infinity or no number, in every IEEE format.
    match scales {
        Scales::F32 => blocks.position(|b| word(b) & 0x7f80_0000 == 0x7f80_0000),
        Scales::F64 => blocks.position(|b| word(&b[4..]) & 0x7ff0_0000 == 0x7ff0_0000),
        Scales::Bf16 => blocks.position(|b| half(b) & 0x7f80 == 0x7f80),
        Scales::F16(places) => blocks.position(|b| places.iter().any(|at| half(&b[*at..]) & 0x7c00 == 0x7c00)),
        Scales::None | Scales::Unknown => None,
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}
