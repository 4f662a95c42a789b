//! Text for PPO-ptx, from the operator's file to tokenised examples.

use std::sync::Arc;

use config::Ppo;
use policy::{TokenId, Vocabulary, sequence_batch::Sequence, vocabulary::TokenizeError};
use ppo::update::pretraining_examples;

use super::{AppError, source::check_file};
use crate::http::wire::text::documents;

/// The examples of `ppo.ptx_file`; none when `ppo.ptx` is off.
pub(super) fn texts(config: &Ppo, vocabulary: &Vocabulary) -> Result<Arc<[Sequence]>, AppError> {
    if config.ptx == "off" {
        if !config.ptx_file.is_empty() {
            let path = &config.ptx_file;
            tracing::warn!(path, "ppo.ptx_file is not read, because ppo.ptx is off; \"auto\" mixes it into every step");
        }
        return Ok(Arc::new([]));
    }
    let path = &config.ptx_file;
    check_file("ppo.ptx_file", path)?;
    let refused = |reason: String| AppError::Text { path: path.clone(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let documents = documents(&text).map_err(&refused)?;
    let tokens: Result<Vec<Vec<TokenId>>, _> = documents.iter().map(|text| tokens_of(vocabulary, text)).collect();
    let tokens = tokens.map_err(|error| refused(format!("a text {error}")))?;
    let examples = pretraining_examples(&tokens, config.ptx_tokens);
    if examples.is_empty() {
        return Err(refused("it holds no text of two tokens or more".to_owned()));
    }
    tracing::info!(path, documents = documents.len(), examples = examples.len(), "pretraining text for every step");
    Ok(examples.into())
}

/// A document as pretraining saw it: the beginning token where the model wants one, the text, the end token.
fn tokens_of(vocabulary: &Vocabulary, text: &str) -> Result<Vec<TokenId>, TokenizeError> {
    let mut tokens = vocabulary.prompt(text)?;
    tokens.push(vocabulary.end_token());
    Ok(tokens)
}
