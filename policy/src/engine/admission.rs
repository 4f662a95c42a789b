//! Who gets a free slot, and with how much of its prompt already computed.

use std::{cmp::Reverse, rc::Rc};

use crate::engine::{
    exchange::Exchange,
    resident::ScoreJob,
    reuse::REUSE_TOKENS_MIN,
    sequence::Sequence,
    stats::add,
    worker::{Slot, Work, Worker},
};

impl Worker<'_> {
    /// Gives free slots away: to scorings and measurements, then as the queue says.
    pub(super) fn fill_slots(&mut self) {
        while self.slots.iter().any(|slot| slot.work.is_none()) {
            if let Some(job) = self.scores.pop_front() {
                self.start_score(job);
                continue;
            }
            if let Some(job) = self.timings.pop_front() {
                let i = self.start_empty();
                self.occupy(i, Work::Time(job.into()));
                continue;
            }
            let Some(exchange) = self.queue.next() else {
                return;
            };
            exchange.leave_queue_by_one();
            self.start_choice(&exchange);
        }
    }

    fn start_score(&mut self, job: ScoreJob) {
        let i = self.start_empty();
        self.occupy(i, Work::Score { log_probs: Vec::with_capacity(job.tokens.len()), job });
    }

    /// A free slot that holds nothing.
    fn start_empty(&mut self) -> usize {
        let i = self.free_slots().next().expect("the caller saw a free slot");
        self.begin_empty(i);
        i
    }

    /// Puts the next choice into a free slot, with as much of its prompt as any sequence of this context holds.
    fn start_choice(&mut self, exchange: &Rc<Exchange>) {
        let prompt = exchange.prompt();
        let i = self.free_slot(exchange);
        let mut sequence = Sequence::next_of(exchange);
        let n = if sequence.scores_prompt() { self.begin_empty(i) } else { self.begin_with_held(i, exchange) };
        self.cells.give_to(i, exchange.audience.clone(), sequence.index);
        sequence.cached_tokens = u32::try_from(n).unwrap_or(u32::MAX);
        let scores = sequence.scores_prompt();
        add(&self.counters.engine.prompt_tokens, prompt.len());
        add(&self.counters.engine.cached_prompt_tokens, n);
        self.occupy(i, Work::Answer(Box::new(sequence)));
        let row = exchange.prompt_row.borrow();
        if n == prompt.len()
            && let Some(row) = row.as_deref()
        {
            self.draw(i, row);
        } else if self.prefill_left(i) == 0 {
            // A prompt of one token has nothing to score, and no pass would come by.
            self.finish_if_prompt_only(i);
        } else if !scores {
            self.await_prefix(i);
        }
        drop(row);
        if exchange.n_unstarted() == 0 {
            exchange.prompt_row.replace(None);
        }
    }

    /// The free slot that holds much of `prompt`, or else the lowest one: llama.cpp computes neighbouring sequences
    /// together, and gaps between them cost passes.
    fn free_slot(&self, exchange: &Exchange) -> usize {
        let shared = |i| self.cells.shared(i, exchange.prompt(), &exchange.audience);
        let worth = |i: &usize| Some(shared(*i)).filter(|&n| n >= REUSE_TOKENS_MIN).unwrap_or(0);
        self.free_slots().max_by_key(|i| (worth(i), Reverse(*i))).expect("the caller saw a free slot")
    }

    fn free_slots(&self) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(|&i| self.slots[i].work.is_none())
    }

    fn occupy(&mut self, i: usize, work: Work) {
        self.tickets += 1;
        self.slots[i] = Slot { work: Some(work), ticket: self.tickets, awaits: None };
    }
}
