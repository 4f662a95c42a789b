//! Grammars on their way to the engine: compiled on its own thread, waited for beside the runtime.

use std::sync::Arc;

use policy::{GrammarError, engine::Constraint};

use super::{
    blocking,
    context::Services,
    error::ApiError,
    wire::{error::INVALID_GRAMMAR, grammar::NamedGrammar},
};

/// A compiled grammar, and the field that brought it.
#[derive(Clone)]
pub(crate) struct NamedConstraint {
    /// As errors name it.
    pub(crate) field: String,
    /// At its start.
    pub(crate) constraint: Constraint,
}

/// A grammar that compiled and then asked too much in the middle of a response: the client's to change, so a 400, or the event
/// that ends a stream.
pub(crate) fn not_followed(field: Option<String>, reason: &str) -> ApiError {
    let name = field.as_deref().unwrap_or("grammar");
    ApiError::coded(INVALID_GRAMMAR, name, format!("`{name}` {reason}"))
}

/// Compiles what a request brought.
///
/// # Errors
/// A 400 that names the field, or a 429 when as many grammars wait as may wait or its turn does not come.
pub(crate) async fn compile(
    services: &Arc<Services>,
    named: Option<NamedGrammar>,
) -> Result<Option<NamedConstraint>, ApiError> {
    let Some(NamedGrammar { field, grammar }) = named else {
        return Ok(None);
    };
    let engine = services.engine.clone();
    let compiled = blocking(move || engine.constrain(grammar)).await?;
    let named = |constraint| Some(NamedConstraint { field: field.clone(), constraint });
    compiled.map(named).map_err(|error| match error {
        GrammarError::Busy => ApiError::QueueFull,
        GrammarError::Ended => ApiError::internal("a grammar", error),
        GrammarError::Invalid(_) | GrammarError::TooSlow => {
            ApiError::coded(INVALID_GRAMMAR, &field, format!("`{field}` {error}"))
        }
    })
}
