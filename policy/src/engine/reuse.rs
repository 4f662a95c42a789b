//! Beginnings of prompts that need not be computed again.
//!
//! A newcomer takes over what its own slot holds, copies what another one does, or fetches what a slot held before. When
//! another slot is about to compute the same beginning (prompts of one request that share their instructions, arriving
//! together), it waits for that one and computes only its own rest.

use crate::engine::{
    cells::common_prefix,
    exchange::Exchange,
    stats::add,
    worker::{Work, Worker},
};

/// Fewer tokens than this decide nothing: neither which slot a prompt goes to nor whether it waits.
pub(super) const REUSE_TOKENS_MIN: usize = 16;

/// A beginning that another slot computes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    slot: usize,
    /// Of the work that computes it: the slot may get another one.
    ticket: u64,
    n_tokens: usize,
}

impl Worker<'_> {
    /// Makes slot `i` hold as much of the prompt as any sequence does, where that is cheaper than computing it; how much.
    pub(super) fn begin_with_held(&mut self, i: usize, exchange: &Exchange) -> usize {
        let prompt = exchange.prompt();
        let shared = |j| self.cells.shared(j, prompt, &exchange.audience);
        let own = shared(i);
        let others = (0..self.slots.len()).map(|j| (shared(j), j));
        let (most, other) = others.max().unwrap_or((own, i));
        let has_row = exchange.prompt_row.borrow().is_some();
        let saves_a_pass = has_row && most == prompt.len() && own < most;
        let pays = saves_a_pass || most >= own + self.cells.copy_pays_from;
        let (best, from) = if pays { (most, other) } else { (own, i) };
        // Without the row after the prompt its last token must be computed again.
        let longest = if has_row { prompt.len() } else { prompt.len() - 1 };
        let n = best.min(longest);
        let cached = self.cells.cached(prompt, &exchange.audience).min(longest);
        self.put_away(i, if from == i { n } else { 0 });
        match cached >= n + REUSE_TOKENS_MIN {
            true => self.cells.fetch(i, prompt, &exchange.audience, cached),
            false => self.cells.take(i, from, n),
        }
    }

    /// Makes slot `i` hold nothing: 0 tokens.
    pub(super) fn begin_empty(&mut self, i: usize) -> usize {
        self.put_away(i, 0);
        self.cells.clear(i);
        0
    }

    /// Keeps what slot `i` holds if more than its first `n_left` tokens are about to be lost.
    pub(super) fn put_away(&mut self, i: usize, n_left: usize) {
        if self.cells.held(i).len() - n_left >= REUSE_TOKENS_MIN {
            self.cells.put_away(i);
        }
    }

    /// Notes whether slot `i`, just occupied, does better to wait for another slot's prompt.
    pub(super) fn await_prefix(&mut self, i: usize) {
        let Some(Work::Answer(sequence)) = &self.slots[i].work else {
            return;
        };
        let (prompt, audience) = (sequence.exchange.prompt(), &sequence.exchange.audience);
        let common = |j: usize| match &self.slots[j].work {
            Some(Work::Answer(other)) if j != i && other.exchange.audience.admits(audience) => {
                if self.prefill_left(j) == 0 { 0 } else { common_prefix(other.exchange.prompt(), prompt) }
            }
            _ => 0,
        };
        let (most, slot) = (0..self.slots.len()).map(|j| (common(j), j)).max().unwrap_or((0, i));
        let n_tokens = most.min(prompt.len() - 1);
        if n_tokens >= self.cells.held(i).len() + self.cells.copy_pays_from.max(REUSE_TOKENS_MIN) {
            self.slots[i].awaits = Some(Awaited { slot, ticket: self.slots[slot].ticket, n_tokens });
        }
    }

    /// Whether slot `i` still waits for a beginning; once that is computed, or will not be, takes what there is of it.
    pub(super) fn is_waiting(&mut self, i: usize) -> bool {
        let Some(awaited) = self.slots[i].awaits else {
            return false;
        };
        let other = &self.slots[awaited.slot];
        let is_computing = other.work.is_some() && other.ticket == awaited.ticket;
        if is_computing && self.cells.held(awaited.slot).len() < awaited.n_tokens {
            return true;
        }
        self.slots[i].awaits = None;
        self.take_awaited(i, awaited);
        false
    }

    fn take_awaited(&mut self, i: usize, awaited: Awaited) {
        let Some(Work::Answer(sequence)) = &mut self.slots[i].work else {
            return;
        };
        let (prompt, audience) = (sequence.exchange.prompt(), &sequence.exchange.audience);
        let before = self.cells.held(i).len();
        let n = self.cells.shared(awaited.slot, prompt, audience).min(prompt.len() - 1);
        if n < before + self.cells.copy_pays_from {
            return;
        }
        let n = self.cells.take(i, awaited.slot, n);
        self.cells.give_to(i, audience.clone(), sequence.index);
        sequence.cached_tokens = u32::try_from(n).unwrap_or(u32::MAX);
        add(&self.counters.engine.cached_prompt_tokens, n.saturating_sub(before));
    }
}
