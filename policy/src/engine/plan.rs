//! What one forward pass computes.

use crate::{
    engine::{
        compute::Entry,
        worker::{Work, Worker},
    },
    token::TokenId,
};

/// Logits that one pass may give to scorings: 64 MiB of f32, so that a long text over a large vocabulary stays bounded.
const SCORE_LOGITS_MAX: usize = 1 << 24;
/// Prompt tokens that a pass takes even when decoding fills it.
const PREFILL_TOKENS_MIN: usize = 32;
/// Prompt tokens in a pass from which on a CPU computes no token cheaper for having more of them beside it (Llama 135M on two
/// cores: 430 tokens/s for one prompt of 80, 500 for eight at once).
const PREFILL_TOKENS_ENOUGH: usize = 48;
/// Prompt tokens in a pass of a CPU whose streams also wait for somebody else: for another resident's pass, or for the rest after
/// their own while a version is loaded. What those cost, prompts give up, so that the gap between two tokens stays. By llama.cpp,
/// and by the decoder, for which few tokens cost little more than one, and many as much as they are.
const PREFILL_TOKENS_SHARED: [usize; 2] = [16, 8];

/// A row of logits that a pass gives: where it lies in the batch, and whose it is.
pub(super) struct Row {
    pub(super) at: usize,
    pub(super) slot: usize,
    /// Place in its sequence of the token that it follows.
    pub(super) position: usize,
}

/// A prompt that waits to be computed.
#[derive(Clone, Copy)]
struct Prompt {
    slot: usize,
    n_left: usize,
    /// Whether each of its tokens gives a row of logits.
    scores: bool,
}

/// What prompts may have of a pass.
#[derive(Clone, Copy)]
struct Budget {
    tokens: usize,
    /// Rows of logits for scorings.
    score_rows: usize,
    /// Tokens after which no other prompt is begun.
    enough: usize,
}

impl Budget {
    /// Up to `n` tokens more of a prompt; how many there were.
    fn spend(&mut self, prompt: Prompt, n: usize) -> usize {
        let n = n.min(self.tokens).min(if prompt.scores { self.score_rows } else { usize::MAX });
        self.tokens -= n;
        self.score_rows -= if prompt.scores { n } else { 0 };
        n
    }
}

/// What one pass computes.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) rows: Vec<Row>,
    /// Tokens that each slot's cache gains.
    pub(super) gains: Vec<(usize, Vec<TokenId>)>,
    /// Those among them that are parts of prompts and of scorings. Without any, the pass is a decode step.
    pub(super) n_given: usize,
    /// The slot that is alone in it, for the sake of the clock.
    pub(super) timed: Option<usize>,
}

impl Worker<'_> {
    /// Fills the batch.
    pub(super) fn plan(&mut self) -> Plan {
        self.batch.clear();
        if let Some(plan) = self.plan_timing() {
            return plan;
        }
        if self.isolates { self.plan_one() } else { self.plan_all() }
    }

    /// Every sequence: a token for each that decodes, then chunks of prompts, the oldest first.
    ///
    /// On a CPU a pass takes a quarter of the prompt tokens that wait, and whole prompts only while they are few: computed
    /// all side by side, each would have its first token when the last has.
    ///
    /// llama.cpp computes side by side what neighbouring sequences, in the order of the batch, have as many tokens of; a gap
    /// between them costs reading the weights once more. So the batch is in the order of slots, and where a prompt stands between
    /// two sequences that decode, its next token is computed with theirs.
    fn plan_all(&mut self) -> Plan {
        let mut plan = Plan::default();
        let decoding: Vec<usize> = (0..self.slots.len()).filter(|&i| self.token_to_decode(i).is_some()).collect();
        let chunks = self.chunks(&decoding);
        for (i, n) in chunks.into_iter().enumerate() {
            if let Some(token) = self.token_to_decode(i) {
                self.add(&mut plan, i, vec![token], 1);
            } else if n > 0 {
                let n_rows = if self.wants_every_row(i) { n } else { usize::from(n == self.prefill_left(i)) };
                self.add_given(&mut plan, i, n, n_rows);
            }
        }
        plan
    }

    /// How many tokens of its prompt each slot computes in a pass beside these, which decode.
    fn chunks(&mut self, decoding: &[usize]) -> Vec<usize> {
        let mut prefilling: Vec<usize> = (0..self.slots.len()).filter(|&i| self.prefill_left(i) > 0).collect();
        prefilling.sort_by_key(|&i| self.slots[i].ticket);
        prefilling.retain(|&i| !self.is_waiting(i));
        let prompts: Vec<Prompt> = prefilling.into_iter().map(|slot| self.prompt(slot)).collect();
        let tokens = match self.shares_time(!decoding.is_empty()) {
            true => PREFILL_TOKENS_SHARED[usize::from(!self.cells.compute.has_places())],
            false => self.setup.batch_tokens.saturating_sub(decoding.len()).max(PREFILL_TOKENS_MIN),
        };
        let waiting = prompts.iter().map(|prompt| prompt.n_left).sum();
        let enough = if self.setup.gpu_layers > 0 { usize::MAX } else { enough_of(waiting) };
        let budget = Budget { tokens, score_rows: self.score_rows_max(), enough };
        // Gaps between those that decode cost llama.cpp alone.
        let neighbours = if self.cells.compute.has_places() { decoding } else { &[] };
        divide(self.slots.len(), &prompts, neighbours, budget)
    }

    fn prompt(&self, slot: usize) -> Prompt {
        Prompt { slot, n_left: self.prefill_left(slot), scores: self.wants_every_row(slot) }
    }

    /// One sequence, in turn. The floats of a pass depend on its shape: how many tokens it has, and how they are spread over
    /// sequences. Here both follow from the sequence alone, so its bits are the same whatever else is running.
    fn plan_one(&mut self) -> Plan {
        let mut plan = Plan::default();
        for _ in 0..self.slots.len() {
            self.turn = (self.turn + 1) % self.slots.len();
            let i = self.turn;
            if let Some(token) = self.token_to_decode(i) {
                self.add(&mut plan, i, vec![token], 1);
                return plan;
            }
            let left = self.prefill_left(i);
            if left > 0 {
                let scores = self.wants_every_row(i);
                let n = left.min(self.setup.batch_tokens).min(if scores { self.score_rows_max() } else { usize::MAX });
                self.add_given(&mut plan, i, n, if scores { n } else { usize::from(n == left) });
                return plan;
            }
        }
        plan
    }

    /// Whether a stream waits for more than its own resident's passes. A GPU computes a chunk in hardly more time than a token.
    fn shares_time(&self, has_streams: bool) -> bool {
        self.setup.gpu_layers == 0
            && (self.setup.gate.is_shared() || has_streams && self.counters.engine.rest.has_guest())
    }

    fn score_rows_max(&self) -> usize {
        score_rows_max(self.setup.vocabulary.size())
    }

    /// The drawn token that slot `i` is to decode, if it is past its prompt.
    pub(super) fn token_to_decode(&self, i: usize) -> Option<TokenId> {
        match &self.slots[i].work {
            Some(Work::Answer(sequence)) if self.prefill_left(i) == 0 => sequence.last_token(),
            _ => None,
        }
    }

    /// Given tokens that slot `i` has still to compute. A scoring never needs the row after its last token.
    pub(super) fn prefill_left(&self, i: usize) -> usize {
        let given = match &self.slots[i].work {
            Some(Work::Answer(sequence)) => sequence.prefill_tokens(),
            Some(Work::Score { job, .. }) => job.tokens.len() - 1,
            Some(Work::Time(_)) | None => 0,
        };
        given.saturating_sub(self.cells.held(i).len())
    }

    /// Whether the tokens that slot `i` is given are scored.
    fn wants_every_row(&self, i: usize) -> bool {
        match &self.slots[i].work {
            Some(Work::Answer(sequence)) => sequence.scores_prompt(),
            Some(Work::Score { .. }) => true,
            Some(Work::Time(_)) | None => false,
        }
    }

    fn prefill_tokens(&self, i: usize, n: usize) -> Vec<TokenId> {
        let at = self.cells.held(i).len();
        match &self.slots[i].work {
            Some(Work::Answer(sequence)) => sequence.exchange.prompt()[at..at + n].to_vec(),
            Some(Work::Score { job, .. }) => job.tokens[at..at + n].to_vec(),
            Some(Work::Time(_)) | None => Vec::new(),
        }
    }

    /// Appends the next `n` given tokens of slot `i`, as [`Worker::add`] does.
    fn add_given(&mut self, plan: &mut Plan, i: usize, n: usize, n_rows: usize) {
        plan.n_given += n;
        let tokens = self.prefill_tokens(i, n);
        self.add(plan, i, tokens, n_rows);
    }

    /// Appends tokens of slot `i` to the batch; the last `n_rows` of them give logits.
    pub(super) fn add(&mut self, plan: &mut Plan, i: usize, tokens: Vec<TokenId>, n_rows: usize) {
        let start = self.cells.held(i).len();
        let first_row = tokens.len() - n_rows;
        for (k, &token) in tokens.iter().enumerate() {
            let (at, position, gives_logits) = (self.batch.len(), start + k, k >= first_row);
            self.batch.push(Entry { token, sequence: i, position, gives_logits });
            if gives_logits {
                plan.rows.push(Row { at, slot: i, position });
            }
        }
        plan.gains.push((i, tokens));
    }
}

/// Tokens for each of `n_slots`, of prompts in the order in which they are to be computed: one for each that stands between two
/// slots that decode, then chunks.
fn divide(n_slots: usize, prompts: &[Prompt], decoding: &[usize], mut budget: Budget) -> Vec<usize> {
    let mut chunks = vec![0; n_slots];
    let is_between = |slot: usize| decoding.iter().any(|&i| i < slot) && decoding.iter().any(|&i| i > slot);
    for prompt in prompts.iter().filter(|prompt| is_between(prompt.slot)) {
        chunks[prompt.slot] = budget.spend(*prompt, 1);
    }
    let mut n_taken = 0;
    for prompt in prompts {
        let n = budget.spend(*prompt, prompt.n_left - chunks[prompt.slot]);
        chunks[prompt.slot] += n;
        n_taken += n;
        if n_taken >= budget.enough {
            break;
        }
    }
    chunks
}

/// Rows of logits that one pass may give to scorings.
pub(super) fn score_rows_max(n_vocab: usize) -> usize {
    (SCORE_LOGITS_MAX / n_vocab.max(1)).max(1)
}

/// Prompt tokens after which a pass takes no other prompt, of so many that wait. All at once makes everybody wait for all; one
/// by one, the few that decode already would take a pass for themselves each time.
fn enough_of(waiting: usize) -> usize {
    PREFILL_TOKENS_ENOUGH.max(waiting / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(slot: usize, n_left: usize) -> Prompt {
        Prompt { slot, n_left, scores: false }
    }

    fn budget(tokens: usize, enough: usize) -> Budget {
        Budget { tokens, score_rows: 4, enough }
    }

    /// Goal: the oldest prompts come first, none beyond the budget, no other once there are enough. Method: nobody decodes.
    #[test]
    fn prompts_are_taken_in_order() {
        let prompts = [prompt(2, 30), prompt(0, 30), prompt(1, 30)];
        assert_eq!(divide(3, &prompts, &[], budget(1000, 48)), [30, 0, 30]);
        assert_eq!(divide(3, &prompts, &[], budget(1000, usize::MAX)), [30, 30, 30]);
        assert_eq!(divide(3, &prompts, &[], budget(50, usize::MAX)), [20, 0, 30]);
    }

    /// Goal: sequences that decode are computed side by side whatever prompts wait between them, and a token is never taken twice.
    /// Method: prompts before, between and after them; one with a single token left; a budget that ends before all have one.
    #[test]
    fn prompts_between_sequences_that_decode_close_the_gap() {
        let prompts = [prompt(0, 30), prompt(3, 1), prompt(2, 30), prompt(5, 30)];
        assert_eq!(divide(6, &prompts, &[1, 4], budget(1000, 20)), [30, 0, 1, 1, 0, 0]);
        assert_eq!(divide(6, &prompts, &[1, 4], budget(1000, usize::MAX)), [30, 0, 30, 1, 0, 30]);
        assert_eq!(divide(6, &prompts, &[1, 4], budget(1, usize::MAX)), [0, 0, 0, 1, 0, 0]);
    }

    /// Goal: logits of scorings stay bounded, and what does not score goes on. Method: a scoring of more tokens than rows.
    #[test]
    fn scorings_have_a_budget_of_rows() {
        let prompts = [Prompt { scores: true, ..prompt(1, 10) }, prompt(0, 10)];
        assert_eq!(divide(2, &prompts, &[], budget(100, usize::MAX)), [10, 4]);
    }
}
