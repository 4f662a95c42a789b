//! Grammars on their way to the engine: compiled on its own thread, waited for beside the runtime.

use std::sync::Arc;

use policy::{GrammarError, engine::Constraint};

use super::{blocking, context::Services, error::ApiError, wire::grammar::NamedGrammar};

/// Compiles what a request brought.
///
/// # Errors
/// A 400 that names the field, or a 429 when as many grammars wait as may wait.
pub(crate) async fn compile(
    services: &Arc<Services>,
    named: Option<NamedGrammar>,
) -> Result<Option<Constraint>, ApiError> {
    let Some(NamedGrammar { field, grammar }) = named else {
        return Ok(None);
    };
    let engine = services.engine.clone();
    let compiled = blocking(move || engine.constrain(grammar)).await?;
    compiled.map(Some).map_err(|error| match error {
        GrammarError::Busy => ApiError::QueueFull,
        GrammarError::Ended => ApiError::internal("a grammar", error),
        GrammarError::Invalid(_) | GrammarError::TooSlow => {
            ApiError::Invalid { message: format!("`{field}` {error}"), param: Some(field), code: None }
        }
    })
}
