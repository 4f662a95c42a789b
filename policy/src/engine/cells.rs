//! The key-value cache of one context: one sequence for each slot, and what it holds.
//!
//! A slot keeps its tokens after its response has ended, so that the next request with the same beginning (a system prompt,
//! another choice of the same prompt, the next turn of a conversation) computes only the rest. All of it belongs to one
//! context and so to one version: it can never be stale.

use std::sync::Arc;

use llama_cpp_2::context::LlamaContext;

use crate::token::TokenId;

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
}

/// A context with a record of what its sequences hold.
pub(super) struct Cells<'m> {
    pub(super) context: LlamaContext<'m>,
    held: Vec<Held>,
    /// Tokens from which on a copy from another sequence is cheaper than computing them.
    pub(super) copy_pays_from: usize,
}

impl<'m> Cells<'m> {
    pub(super) fn new(context: LlamaContext<'m>, n_sequences: usize, copy_pays_from: usize) -> Cells<'m> {
        Cells { context, held: vec![Held::default(); n_sequences], copy_pays_from }
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

    /// Says for whom sequence `i` is from now on.
    pub(super) fn give_to(&mut self, i: usize, audience: Audience) {
        self.held[i].audience = audience;
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
            let copied = self.context.copy_kv_cache_seq(seq(from), seq(into), None, None);
            if copied.is_err() {
                return 0;
            }
            self.held[into] = self.held[from].clone();
        }
        self.cut(into, n)
    }

    /// Leaves the first `n` tokens of a sequence; how many it holds then.
    fn cut(&mut self, i: usize, n: usize) -> usize {
        if n < self.held[i].tokens.len() {
            let cut = self.context.clear_kv_cache_seq(id(i), u32::try_from(n).ok(), None);
            if !matches!(cut, Ok(true)) {
                self.clear(i);
                return 0;
            }
            self.held[i].tokens.truncate(n);
        }
        n
    }

    /// Empties a sequence; this always succeeds.
    pub(super) fn clear(&mut self, i: usize) {
        if !matches!(self.context.clear_kv_cache_seq(id(i), None, None), Ok(true)) {
            tracing::error!(sequence = i, "llama.cpp did not clear a sequence");
        }
        self.held[i] = Held::default();
    }
}

/// Tokens with which both begin.
pub(super) fn common_prefix(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A sequence's number as llama.cpp takes it; the configuration bounds it by 256.
pub(super) fn seq(i: usize) -> i32 {
    i32::try_from(i).expect("there are at most 256 sequences")
}

fn id(i: usize) -> Option<u32> {
    Some(u32::try_from(i).expect("there are at most 256 sequences"))
}
