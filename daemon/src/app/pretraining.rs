//! Text for PPO-ptx and for the gate, from the operator's file to tokenised examples.

use config::Ppo;
use policy::{TokenId, Vocabulary, vocabulary::TokenizeError};
use ppo::update::{PretrainingTexts, pretraining_examples};

use super::{AppError, source::check_file};
use crate::http::wire::text::documents;

/// The examples of `ppo.ptx_file`; none where nobody reads them.
pub(super) fn texts(config: &Ppo, vocabulary: &Vocabulary) -> Result<PretrainingTexts, AppError> {
    let path = &config.ptx_file;
    let is_learnt = config.ptx != "off";
    if !is_learnt && (path.is_empty() || config.gate == "off") {
        if !path.is_empty() {
            tracing::warn!(
                path,
                "ppo.ptx_file is not read, because ppo.ptx and ppo.gate are off; ppo.ptx = \"auto\" mixes it into every step"
            );
        }
        return Ok(PretrainingTexts::split(&[]));
    }
    check_file("ppo.ptx_file", path)?;
    let refused = |reason: String| AppError::Text { path: path.clone(), reason };
    check_length(config, vocabulary).map_err(&refused)?;
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let documents = documents(&text).map_err(&refused)?;
    let tokens: Result<Vec<Vec<TokenId>>, _> = documents.iter().map(|text| tokens_of(vocabulary, text)).collect();
    let tokens = tokens.map_err(|error| refused(format!("a text {error}")))?;
    let examples = pretraining_examples(&tokens, config.ptx_tokens);
    if examples.is_empty() {
        return Err(refused("it holds no text of two tokens or more".to_owned()));
    }
    let texts = PretrainingTexts::split(&examples);
    let (documents, learnt, measured) = (documents.len(), texts.learnt.len(), texts.measured.len());
    match (is_learnt, texts.is_held_out) {
        (true, true) => tracing::info!(path, documents, learnt, measured, "pretraining text for every step"),
        (true, false) => tracing::warn!(
            path,
            documents,
            learnt,
            measured,
            "pretraining text for every step, too short to hold some of it out: the gate measures what was forgotten \
             (ppo.gate_ptx_rise) on examples that are learnt from"
        ),
        (false, _) => tracing::info!(path, documents, measured, "pretraining text that the gate measures on"),
    }
    Ok(texts)
}

/// No example may be longer than what the model has ever seen at once.
fn check_length(config: &Ppo, vocabulary: &Vocabulary) -> Result<(), String> {
    let context = vocabulary.trained_context().map_or(usize::MAX, |tokens| tokens as usize);
    if config.ptx_tokens > context {
        let n_tokens = config.ptx_tokens;
        return Err(format!("ppo.ptx_tokens = {n_tokens} is more than the model's context of {context} tokens"));
    }
    Ok(())
}

/// A document as pretraining saw it: the beginning token where the model wants one, the text, the end token.
fn tokens_of(vocabulary: &Vocabulary, text: &str) -> Result<Vec<TokenId>, TokenizeError> {
    let mut tokens = vocabulary.prompt(text)?;
    tokens.push(vocabulary.end_token());
    Ok(tokens)
}
