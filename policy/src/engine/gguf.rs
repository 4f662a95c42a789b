//! A look into a GGUF file before C++ sees it: what [`crate::checkpoint::gguf`] checks, and what the engine wants
//! to know. A truncated download or a half-written file ends here with a sentence instead of a signal.

use std::path::Path;

use crate::{
    architecture::Shape, checkpoint::header_of_file, decoder, engine::EngineError, model_error::ModelError,
    transformer::is_adapter,
};

/// Numbers of an architecture that llama.cpp asserts instead of refusing, by the end of their key.
const ASSERTED: [(&str, std::ops::RangeInclusive<u32>); 2] = [(".block_count", 1..=512), (".expert_count", 0..=1024)];

/// GGUF's `general.file_type` of a file whose matrices are all f32.
pub(super) const ALL_F32: u32 = 0;

/// What a header says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Inspected {
    /// Digest of the tokenizer, in hex.
    pub(crate) tokenizer: String,
    /// Whether it is an adapter, to be served beside version 0's weights.
    pub(crate) is_adapter: bool,
    /// Whether it says that all its matrices are f32, by which llama.cpp's cache is chosen.
    pub(crate) is_f32: bool,
    /// Whether they are, by which the decoder's is.
    pub(crate) has_f32_matrices: bool,
    /// Bytes of its matrices as the decoder holds an adapter's.
    pub(crate) adapter_bytes: u64,
    /// The shape of a model that the decoder computes, or why it does not.
    pub(crate) decoder: Result<Shape, String>,
}

/// Checks the header of a GGUF file.
///
/// # Errors
/// [`EngineError::Load`] with what is wrong.
pub(crate) fn inspect(path: &Path) -> Result<Inspected, EngineError> {
    let refused = |reason: String| EngineError::Load { path: path.to_owned(), reason };
    let header = header_of_file(path).map_err(|error| match error {
        ModelError::Malformed { source, .. } => refused(source.to_string()),
        ModelError::Io { source, .. } => refused(source.to_string()),
        other => refused(other.to_string()),
    })?;
    for (key, value) in header.metadata.iter() {
        for (end, range) in &ASSERTED {
            let number = value.to_u32().ok().filter(|n| range.contains(n));
            if key.ends_with(end) && number.is_none() {
                return Err(refused(format!("`{key}` must be {} to {}", range.start(), range.end())));
            }
        }
    }
    let n_tokens = header.metadata.get("tokenizer.ggml.tokens").and_then(|tokens| tokens.to_vec().ok()).map(Vec::len);
    for (key, value) in header.metadata.iter() {
        // llama.cpp takes another one in place of a special token that there is not.
        if key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id") {
            let id = value.to_u32().ok().map(|id| id as usize);
            if n_tokens.is_some_and(|n| id.is_none_or(|id| id >= n)) {
                return Err(refused(format!("`{key}` is no token")));
            }
        }
    }
    let decoder = decoder::shape_of(&header);
    let file_type = header.metadata.get("general.file_type").and_then(|value| value.to_u32().ok());
    let mut matrices = header.tensors.values().filter(|place| place.dims.len() > 1);
    Ok(Inspected {
        is_adapter: is_adapter(&header.metadata),
        is_f32: file_type == Some(ALL_F32),
        has_f32_matrices: matrices.all(|place| place.kind.name == "F32"),
        adapter_bytes: decoder::adapter_bytes(&header),
        tokenizer: header.vocabulary_digest,
        decoder,
    })
}
