//! A grammar while a response is drawn: which tokens may come next.
//!
//! Tokens outside are never drawn: they count as mass that truncation cut, so the behavior log-prob is that of the
//! distribution really drawn from and the kept mass says how far that is from the policy's own. What was drawn so is marked
//! ([`SamplingParams::constrained`](crate::SamplingParams)) and never trains, however little the grammar cut.

mod compiler;

use llguidance::{Matcher, toktrie::SimpleVob};

pub(super) use self::compiler::Compiler;
use self::compiler::{ITEMS_MAX, LEXER_FUEL, ROW_ITEMS_MAX};
use crate::token::TokenId;

/// A compiled grammar. Clones begin at its start.
#[derive(Clone)]
pub struct Constraint(Matcher);

/// Why a grammar could not be followed any further. The library's own words stay here: they may quote grammar and response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// What may come next is more than one token's share of the engine's time allows to be found out.
    #[error(
        "cannot be followed any further: what may come next takes more than the budget of one token \
         ({LEXER_FUEL} steps of the lexer, {ITEMS_MAX} items of the parser, {ROW_ITEMS_MAX} of them at one place)"
    )]
    Budget,
    /// No token of this vocabulary continues what was drawn.
    #[error("cannot be followed any further: no token of the vocabulary continues the response")]
    DeadEnd,
    /// A bug of the library, or ours.
    #[error("the library that follows grammars failed")]
    Library,
}

impl Lost {
    /// Whether another grammar would have been followed.
    pub(super) fn is_the_grammars(self) -> bool {
        self != Lost::Library
    }
}

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

/// The library tells its errors apart by their text alone, once it has taken its own state away.
fn lost(error: impl std::fmt::Display) -> Lost {
    let text = error.to_string();
    let budgets = ["lexer error: ", "parser error: ", "Parser Error: Current row has "];
    if budgets.iter().any(|beginning| text.starts_with(beginning)) {
        Lost::Budget
    } else if text.contains("NoExtension") {
        Lost::DeadEnd
    } else {
        Lost::Library
    }
}
