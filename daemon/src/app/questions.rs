//! The operator's questions for the gate.

use std::{path::Path, sync::Arc};

use config::Ppo;
use policy::{TokenId, engine::Engine};

use super::{AppError, source::check_file};
use crate::train;

/// The prompts of `ppo.gate_file`, each with room for an answer; none without a file.
pub(super) fn of_file(config: &Ppo, engine: &Engine) -> Result<Arc<[Vec<TokenId>]>, AppError> {
    let path = &config.gate_file;
    if path.is_empty() || config.gate == "off" {
        return Ok(Arc::new([]));
    }
    check_file("ppo.gate_file", path)?;
    let refused = |reason: String| AppError::Questions { path: path.clone(), reason };
    let room = (engine.context_tokens() as usize).saturating_sub(config.gate_tokens as usize);
    if room < 2 {
        let window = engine.context_tokens();
        return Err(refused(format!("ppo.gate_tokens leaves no room for a prompt in a window of {window} tokens")));
    }
    let (prompts, tally) =
        train::prompts(Path::new(path), &engine.vocabulary(), room).map_err(|error| refused(error.to_string()))?;
    tracing::info!(path, prompts = prompts.len(), "questions for the gate: {tally}");
    Ok(prompts.into())
}
