//! The key-value cache of one context: one sequence for each slot, and what it holds.
//!
//! A slot keeps its tokens after its response has ended, so that the next request with the same beginning (a system prompt,
//! another choice of the same prompt, the next turn of a conversation) computes only the rest. All of it belongs to one
//! context and so to one version: it can never be stale.

use llama_cpp_2::context::LlamaContext;

use crate::token::TokenId;

/// Each sequence has its own buffer. With one buffer for all, every token attends over everybody's cells, masked: slower
/// from eight sequences on (2,500 against 5,700 tokens/s on a 1M model), and with llama.cpp's flash attention on a CPU less
/// exact by four digits.
pub(super) const UNIFIED: bool = false;

/// A context with a record of what its sequences hold.
pub(super) struct Cells<'m> {
    pub(super) context: LlamaContext<'m>,
    /// Tokens of each sequence that are in the cache.
    held: Vec<Vec<TokenId>>,
    /// Tokens from which on a copy from another sequence is cheaper than computing them.
    pub(super) copy_pays_from: usize,
}

impl<'m> Cells<'m> {
    pub(super) fn new(context: LlamaContext<'m>, n_sequences: usize, copy_pays_from: usize) -> Cells<'m> {
        Cells { context, held: vec![Vec::new(); n_sequences], copy_pays_from }
    }

    /// Tokens that sequence `i` holds.
    pub(super) fn held(&self, i: usize) -> &[TokenId] {
        &self.held[i]
    }

    /// Notes tokens that a successful forward pass appended to sequence `i`.
    pub(super) fn append(&mut self, i: usize, tokens: &[TokenId]) {
        self.held[i].extend_from_slice(tokens);
    }

    /// Length of the beginning that sequence `i` shares with `prompt`.
    pub(super) fn shared(&self, i: usize, prompt: &[TokenId]) -> usize {
        self.held[i].iter().zip(prompt).take_while(|(a, b)| a == b).count()
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
        if n < self.held[into].len() {
            let cut = self.context.clear_kv_cache_seq(id(into), u32::try_from(n).ok(), None);
            if !matches!(cut, Ok(true)) {
                self.clear(into);
                return 0;
            }
            self.held[into].truncate(n);
        }
        n
    }

    /// Empties a sequence; this always succeeds.
    pub(super) fn clear(&mut self, i: usize) {
        if !matches!(self.context.clear_kv_cache_seq(id(i), None, None), Ok(true)) {
            tracing::error!(sequence = i, "llama.cpp did not clear a sequence");
        }
        self.held[i].clear();
    }
}

/// A sequence's number as llama.cpp takes it; the configuration bounds it by 256.
pub(super) fn seq(i: usize) -> i32 {
    i32::try_from(i).expect("there are at most 256 sequences")
}

fn id(i: usize) -> Option<u32> {
    Some(u32::try_from(i).expect("there are at most 256 sequences"))
}
