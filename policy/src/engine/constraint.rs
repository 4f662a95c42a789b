//! A grammar while a response is drawn: which tokens may come next.
//!
//! Tokens outside are never drawn: they count as mass that truncation cut, so the behavior log-prob is that of the
//! distribution really drawn from and the kept mass says how far that is from the policy's own. A response whose grammar
//! cut much does not train, by the rule that truncation has anyway.

mod compiler;

use llguidance::{Matcher, toktrie::SimpleVob};

pub(super) use self::compiler::Compiler;
use crate::token::TokenId;

/// A compiled grammar. Clones begin at its start.
#[derive(Clone)]
pub struct Constraint(Matcher);

/// A grammar that could not be followed any further within the compiler's budget for one token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the grammar of the response: {0}")]
pub(super) struct Lost(String);

/// The tokens that may come next.
#[derive(Debug)]
pub(super) struct Allowed(SimpleVob);

impl Allowed {
    /// One bit a token, the lowest first.
    pub(super) fn bits(&self) -> &[u32] {
        self.0.as_slice()
    }
}

impl Constraint {
    /// A state of its own at the start of the same grammar.
    pub(super) fn begin(&self) -> Constraint {
        Constraint(self.0.deep_clone())
    }

    /// The tokens that may come next; only end tokens when the text is complete and nothing can follow.
    pub(super) fn allowed(&mut self) -> Result<Allowed, Lost> {
        self.0.compute_mask_or_eos().map(Allowed).map_err(lost)
    }

    /// Notes a drawn token.
    pub(super) fn advance(&mut self, id: TokenId) -> Result<(), Lost> {
        // A token after the end would spoil the matcher for good.
        if self.0.is_stopped() { Ok(()) } else { self.0.consume_token(id.0).map_err(lost) }
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("stopped", &self.0.is_stopped()).finish_non_exhaustive()
    }
}

fn lost(error: impl std::fmt::Display) -> Lost {
    Lost(error.to_string())
}
