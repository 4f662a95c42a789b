//! The beginning of a weight file: metadata and the sizes of tensors, without a single weight.

use std::{fs::File, io::BufReader, path::Path};

use candle_core::quantized::gguf_file;

use super::Metadata;
use crate::{
    architecture::{Shape, llama},
    model_error::{ModelError, Result},
};

/// Everything in a file that is not a tensor.
///
/// # Errors
/// When the file cannot be read or is not GGUF.
pub fn metadata_of_file(path: &Path) -> Result<Metadata> {
    Ok(Metadata::new(content(path)?.metadata))
}

fn content(path: &Path) -> Result<gguf_file::Content> {
    let file = File::open(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
    gguf_file::Content::read(&mut BufReader::with_capacity(1 << 20, file))
        .map_err(|source| ModelError::Gguf { path: path.to_owned(), source })
}

/// The shape of the model in a file, for plans that are made before anything is loaded.
///
/// # Errors
/// When the file cannot be read, is not GGUF, or its architecture cannot be trained.
pub fn shape_of_file(path: &Path) -> Result<Shape> {
    let content = content(path)?;
    let metadata = Metadata::new(content.metadata);
    // The architecture first, so that a model of another family gets that answer and not a missing tensor.
    Shape::from_metadata(&metadata, 0, true)?;
    let missing = || ModelError::MissingTensor(llama::TOKEN_EMBEDDING.to_owned());
    let embedding = content.tensor_infos.get(llama::TOKEN_EMBEDDING).ok_or_else(missing)?;
    let vocab_size = embedding.shape.dims().first().copied().unwrap_or(0);
    Shape::from_metadata(&metadata, vocab_size, !content.tensor_infos.contains_key(llama::OUTPUT))
}
