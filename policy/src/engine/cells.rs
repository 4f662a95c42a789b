//! The key-value cache of one context: one sequence for each slot, and what it holds.
//!
//! A slot keeps its tokens after its response has ended, so that the next request with the same beginning (a system prompt,
//! another choice of the same prompt, the next turn of a conversation) computes only the rest. All of it belongs to one
//! context and so to one version: it can never be stale.

use std::sync::Arc;

use crate::{
    engine::{
        compute::{Compute, Entry, State},
        prefix_cache::PrefixCache,
    },
    token::TokenId,
};

/// Each sequence has its own buffer. With one buffer for all, every token attends over everybody's cells, masked: slower
/// from eight sequences on (2,500 against 5,700 tokens/s on a 1M model), and with llama.cpp's flash attention on a CPU less
/// exact by four digits.
pub(super) const UNIFIED: bool = false;

/// Who may begin with what a sequence holds. Reuse shows in the time to the first token, so it tells whoever can ask what
/// others asked before; a salt keeps those apart who must not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Audience {
    /// Nobody: it was not a client's.
    #[default]
    Nobody,
    /// Every request without a salt.
    Everybody,
    /// Requests with this salt.
    Salted(Arc<str>),
    /// The choices of one request: what others computed came out of passes of another shape and may differ in the last bit.
    Choices(u64),
}

impl Audience {
    /// Of a request with this salt.
    pub(super) fn of(salt: Option<&Arc<str>>) -> Audience {
        salt.map_or(Audience::Everybody, |salt| Audience::Salted(Arc::clone(salt)))
    }

    /// Whether a request of `other` may begin with what is for this audience.
    pub(super) fn admits(&self, other: &Audience) -> bool {
        self == other && *self != Audience::Nobody
    }
}

/// What one sequence holds.
#[derive(Clone, Debug, Default)]
struct Held {
    tokens: Vec<TokenId>,
    audience: Audience,
    /// Of its request.
    choice: u32,
}

/// A context with a record of what its sequences hold.
pub(super) struct Cells<'m> {
    pub(super) compute: Compute<'m>,
    held: Vec<Held>,
    /// What the sequences held before.
    cache: PrefixCache<State>,
    /// llama.cpp copies between sequences when it next computes; until then their memory is not what it will be, so nothing
    /// may be moved into or out of it.
    copy_is_pending: bool,
    /// Tokens from which on a copy from another sequence is cheaper than computing them.
    pub(super) copy_pays_from: usize,
}

impl<'m> Cells<'m> {
    /// `cache_tokens`: how many tokens are kept beside those of the sequences.
    pub(super) fn new(
        compute: Compute<'m>,
        n_sequences: usize,
        copy_pays_from: usize,
        cache_tokens: usize,
    ) -> Cells<'m> {
        let (held, cache) = (vec![Held::default(); n_sequences], PrefixCache::new(cache_tokens, compute.page_tokens()));
        Cells { compute, held, cache, copy_is_pending: false, copy_pays_from }
    }

    /// Computes a batch. `alone`: on the calling thread, where that can be asked for.
    pub(super) fn decode(&mut self, batch: &[Entry], alone: bool) -> Result<(), String> {
        self.compute.run(batch, alone)?;
        self.copy_is_pending = false;
        Ok(())
    }

    /// Tokens that sequence `i` holds.
    pub(super) fn held(&self, i: usize) -> &[TokenId] {
        &self.held[i].tokens
    }

    /// Notes tokens that a successful forward pass appended to sequence `i`.
    pub(super) fn append(&mut self, i: usize, tokens: &[TokenId]) {
        self.held[i].tokens.extend_from_slice(tokens);
    }

    /// Length of the beginning that sequence `i` shares with `prompt`, for a request of `audience`.
    pub(super) fn shared(&self, i: usize, prompt: &[TokenId], audience: &Audience) -> usize {
        let held = &self.held[i];
        if held.audience.admits(audience) { common_prefix(&held.tokens, prompt) } else { 0 }
    }

    /// Says for which choice of whose request sequence `i` is from now on.
    pub(super) fn give_to(&mut self, i: usize, audience: Audience, choice: u32) {
        self.held[i].audience = audience;
        self.held[i].choice = choice;
    }

    /// Makes sequence `into` hold exactly the first `n` tokens of sequence `from`; how many it really holds then (a model
    /// whose memory cannot be cut gives 0).
    pub(super) fn take(&mut self, into: usize, from: usize, n: usize) -> usize {
        if n == 0 {
            self.clear(into);
            return 0;
        }
        if into != from {
            self.clear(into);
            if !self.compute.copy(from, into, n) {
                return 0;
            }
            self.copy_is_pending = self.compute.has_places();
            self.held[into] = self.held[from].clone();
        }
        self.cut(into, n)
    }

    /// Tokens of `prompt` that only the cache beside the sequences holds, for a request of `audience`.
    pub(super) fn cached(&self, prompt: &[TokenId], audience: &Audience) -> usize {
        if self.copy_is_pending { 0 } else { self.cache.shared(prompt, audience) }
    }

    /// Moves what sequence `i` holds into the cache, if the cache wants it: the sequence is about to be overwritten. Of the
    /// choices of a request only the first is kept: they have their prompt in common, and hardly anybody continues all.
    pub(super) fn put_away(&mut self, i: usize) {
        let Held { tokens, audience, choice } = &self.held[i];
        let is_wanted = *choice == 0 && *audience != Audience::Nobody && self.cache.wants(tokens, audience);
        if self.copy_is_pending || !is_wanted {
            return;
        }
        match self.compute.state(i) {
            Ok(state) => self.cache.insert(tokens.clone(), audience.clone(), state),
            Err(error) => tracing::warn!(sequence = i, error, "a computed prompt could not be kept"),
        }
    }

    /// Makes sequence `into` hold the first `n` tokens of what the cache has for `prompt`; how many it really holds then.
    pub(super) fn fetch(&mut self, into: usize, prompt: &[TokenId], audience: &Audience, n: usize) -> usize {
        self.clear(into);
        let Some(found) = self.cache.find(prompt, audience) else {
            return 0;
        };
        if let Err(error) = self.compute.set(into, found.state) {
            tracing::warn!(sequence = into, error, "a kept prompt could not be taken back");
            self.clear(into);
            return 0;
        }
        let n = n.min(common_prefix(found.tokens, prompt));
        self.held[into] = Held { tokens: found.tokens.to_vec(), audience: audience.clone(), choice: 0 };
        self.cut(into, n)
    }

    /// Leaves the first `n` tokens of a sequence; how many it holds then.
    fn cut(&mut self, i: usize, n: usize) -> usize {
        if n < self.held[i].tokens.len() {
            if !self.compute.cut(i, n) {
                self.clear(i);
                return 0;
            }
            self.held[i].tokens.truncate(n);
        }
        n
    }

    /// Empties a sequence; this always succeeds.
    pub(super) fn clear(&mut self, i: usize) {
        if !self.compute.cut(i, 0) {
            tracing::error!(sequence = i, "llama.cpp did not clear a sequence");
        }
        self.held[i] = Held::default();
    }
}

/// Tokens with which both begin.
pub(super) fn common_prefix(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
