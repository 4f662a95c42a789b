//! The tokens that penalties look at.

use std::collections::HashMap;

use crate::{sampling::SamplingParams, token::TokenId};

/// What the penalties look at.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Occurrences of each token in the response; 0 for those in the prompt only.
    pub(super) counts: HashMap<TokenId, u32>,
}

impl History {
    /// A history that starts with the prompt; stays empty when `params` has no penalty.
    #[must_use]
    pub fn new(prompt: &[TokenId], params: &SamplingParams) -> History {
        let mut history = History::default();
        if has_penalty(params) {
            history.counts.extend(prompt.iter().map(|&id| (id, 0)));
        }
        history
    }

    /// Notes a drawn token.
    pub fn push(&mut self, id: TokenId, params: &SamplingParams) {
        if has_penalty(params) {
            *self.counts.entry(id).or_insert(0) += 1;
        }
    }
}

/// Whether the settings look at the history at all.
pub(super) fn has_penalty(params: &SamplingParams) -> bool {
    params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 || params.repetition_penalty != 1.0
}
