//! The beginning of a weight file: metadata and the places of tensors, without a single weight.

use std::{fs::File, path::Path};

use super::{Metadata, gguf::Header};
use crate::{
    architecture::{Shape, llama},
    model_error::{ModelError, Result},
    scalar_model::HEAD_WEIGHT,
};

/// A file's header, checked.
///
/// # Errors
/// When the file cannot be read, is no regular file, or is not GGUF.
pub fn header_of_file(path: &Path) -> Result<Header> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    // Looked at before it is opened: a FIFO would wait for its writer for ever.
    let found = std::fs::metadata(path).map_err(io)?;
    if !found.is_file() {
        return Err(io(std::io::Error::other("not a regular file")));
    }
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    Header::read(file, len).map_err(|source| ModelError::Malformed { path: path.to_owned(), source })
}

/// Everything in a file that is not a tensor.
///
/// # Errors
/// When the file cannot be read or is not GGUF.
pub fn metadata_of_file(path: &Path) -> Result<Metadata> {
    Ok(header_of_file(path)?.metadata)
}

/// Refuses a model that has a scalar head, whole or an adapter: trained or served as a policy it would be useless, and it
/// differs from one in its tensors only.
///
/// # Errors
/// [`ModelError::Judge`].
pub fn check_answers(header: &Header) -> Result<()> {
    if header.tensors.contains_key(HEAD_WEIGHT) { Err(ModelError::Judge) } else { Ok(()) }
}

/// The shape of the model in a file, for plans that are made before anything is loaded.
///
/// # Errors
/// When the file cannot be read, is not GGUF, or its architecture cannot be trained.
pub fn shape_of_file(path: &Path) -> Result<Shape> {
    let header = header_of_file(path)?;
    // The architecture first, so that a model of another family gets that answer and not a missing tensor.
    Shape::from_metadata(&header.metadata, 0, true)?;
    let missing = || ModelError::MissingTensor(llama::TOKEN_EMBEDDING.to_owned());
    let embedding = header.tensors.get(llama::TOKEN_EMBEDDING).ok_or_else(missing)?;
    let vocab_size = embedding.dims.first().and_then(|rows| usize::try_from(*rows).ok()).unwrap_or(0);
    Shape::from_metadata(&header.metadata, vocab_size, !header.tensors.contains_key(llama::OUTPUT))
}
