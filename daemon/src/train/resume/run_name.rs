//! What tells one run from another.

use policy::{TokenId, checkpoint::Digest, sequence_batch::Sequence};
use sha2::{Digest as _, Sha256};

/// What decides a run's numbers: two runs with the same name come to the same weights.
#[derive(Default)]
pub(in crate::train) struct RunName(Vec<u8>);

impl RunName {
    /// Adds something that can be shown in full.
    pub(in crate::train) fn and(mut self, what: impl std::fmt::Debug) -> RunName {
        self.0.extend_from_slice(&Digest::of(format!("{what:?}").as_bytes()).0);
        self
    }

    /// Adds data: sequences, in order, and from where on each is learnt.
    pub(in crate::train) fn and_sequences(self, all: &[Sequence]) -> RunName {
        let starts = all.iter().map(|sequence| sequence.prompt_len).collect::<Vec<_>>();
        self.and(starts).and_tokens(all.iter().map(|sequence| sequence.tokens.as_slice()))
    }

    /// Adds data: rows of tokens, in order.
    pub(in crate::train) fn and_tokens<'a>(mut self, all: impl IntoIterator<Item = &'a [TokenId]>) -> RunName {
        let mut hasher = Sha256::new();
        for tokens in all {
            hasher.update((tokens.len() as u64).to_le_bytes());
            tokens.iter().for_each(|token| hasher.update(token.0.to_le_bytes()));
        }
        self.0.extend_from_slice(&hasher.finalize());
        self
    }

    pub(super) fn digest(&self) -> String {
        Digest::of(&self.0).to_string()
    }
}
