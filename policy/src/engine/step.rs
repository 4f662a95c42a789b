//! One forward pass: what goes into the batch, and what is done with the rows that come out.

use std::rc::Rc;

use llama_cpp_2::token::LlamaToken;

use crate::{
    engine::{
        cells::seq,
        sampler::raw_log_prob,
        softmax::largest_logit,
        stats::add,
        worker::{Work, Worker},
    },
    token::TokenId,
};

/// Logits that one pass may give to scorings: 64 MiB of f32, so that a long text over a large vocabulary stays bounded.
const SCORE_LOGITS_MAX: usize = 1 << 24;
/// Prompt tokens that a pass takes even when decoding fills it.
const PREFILL_TOKENS_MIN: usize = 32;

/// A row of logits that a pass gives: where it lies in the batch, and whose it is.
struct Row {
    at: i32,
    slot: usize,
    /// Place in its sequence of the token that it follows.
    position: usize,
}

/// What one pass computes.
#[derive(Default)]
struct Plan {
    rows: Vec<Row>,
    /// Tokens that each slot's cache gains.
    gains: Vec<(usize, Vec<TokenId>)>,
}

impl Worker<'_> {
    /// Builds a batch, runs it, and draws from its rows.
    pub(super) fn step(&mut self) {
        let plan = self.plan();
        if plan.gains.is_empty() {
            return;
        }
        let result = {
            let _turn = self.setup.gate.enter();
            self.cells.decode(&mut self.batch)
        };
        match result {
            Ok(()) => self.apply(plan),
            Err(error) => self.give_up(&plan, &error.to_string()),
        }
    }

    fn plan(&mut self) -> Plan {
        self.batch.clear();
        let mut plan = Plan::default();
        for i in 0..self.slots.len() {
            if let Some(token) = self.token_to_decode(i) {
                self.add(&mut plan, i, vec![token], 1);
            }
        }
        let decoding = plan.rows.len();
        let mut budget = self.setup.batch_tokens.saturating_sub(decoding).max(PREFILL_TOKENS_MIN);
        let mut score_rows = (SCORE_LOGITS_MAX / self.setup.vocabulary.size()).max(1);
        let mut prefilling: Vec<usize> = (0..self.slots.len()).filter(|&i| self.prefill_left(i) > 0).collect();
        prefilling.sort_by_key(|&i| self.slots[i].ticket);
        for i in prefilling {
            if self.is_waiting(i) {
                continue;
            }
            let left = self.prefill_left(i);
            let scores = self.wants_every_row(i);
            let n = left.min(budget).min(if scores { score_rows } else { usize::MAX });
            if n == 0 {
                continue;
            }
            budget -= n;
            let tokens = self.prefill_tokens(i, n);
            let n_rows = if scores { n } else { usize::from(n == left) };
            score_rows -= if scores { n } else { 0 };
            self.add(&mut plan, i, tokens, n_rows);
        }
        plan
    }

    /// The drawn token that slot `i` is to decode, if it is past its prompt.
    fn token_to_decode(&self, i: usize) -> Option<TokenId> {
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
            None => 0,
        };
        given.saturating_sub(self.cells.held(i).len())
    }

    /// Whether the tokens that slot `i` is given are scored.
    fn wants_every_row(&self, i: usize) -> bool {
        match &self.slots[i].work {
            Some(Work::Answer(sequence)) => sequence.scores_prompt(),
            Some(Work::Score { .. }) => true,
            None => false,
        }
    }

    fn prefill_tokens(&self, i: usize, n: usize) -> Vec<TokenId> {
        let at = self.cells.held(i).len();
        match &self.slots[i].work {
            Some(Work::Answer(sequence)) => sequence.exchange.prompt()[at..at + n].to_vec(),
            Some(Work::Score { job, .. }) => job.tokens[at..at + n].to_vec(),
            None => Vec::new(),
        }
    }

    /// Appends tokens of slot `i` to the batch; the last `n_rows` of them give logits.
    fn add(&mut self, plan: &mut Plan, i: usize, tokens: Vec<TokenId>, n_rows: usize) {
        let start = self.cells.held(i).len();
        let first_row = tokens.len() - n_rows;
        for (k, &token) in tokens.iter().enumerate() {
            let at = self.batch.n_tokens();
            let position = i32::try_from(start + k).expect("the context window was checked to fit");
            self.batch
                .add(llama(token), position, &[seq(i)], k >= first_row)
                .expect("a batch has room for batch_tokens and one token for each slot");
            if k >= first_row {
                plan.rows.push(Row { at, slot: i, position: start + k });
            }
        }
        plan.gains.push((i, tokens));
    }

    fn apply(&mut self, plan: Plan) {
        add(&self.counters.steps, 1);
        add(&self.counters.step_tokens, usize::try_from(self.batch.n_tokens()).unwrap_or(0));
        for (i, tokens) in &plan.gains {
            self.cells.append(*i, tokens);
        }
        for row in plan.rows {
            self.take_row(&row);
        }
        for i in 0..self.slots.len() {
            if self.prefill_left(i) > 0 {
                continue;
            }
            match &mut self.slots[i].work {
                Some(Work::Score { log_probs, .. }) => {
                    let answer = std::mem::take(log_probs);
                    self.reply(i, Ok(answer));
                }
                Some(Work::Answer(_)) => self.finish_if_prompt_only(i),
                None => {}
            }
        }
    }

    fn take_row(&mut self, row: &Row) {
        match &mut self.slots[row.slot].work {
            Some(Work::Answer(sequence)) if row.position + 1 < sequence.exchange.prompt().len() => {
                let logits = self.cells.context.get_logits_ith(row.at);
                if let Err(error) = sequence.score_prompt(row.position, logits, &mut self.sampler) {
                    let exchange = Rc::clone(&sequence.exchange);
                    self.fail(&exchange, &error.to_string());
                }
            }
            Some(Work::Answer(_)) => {
                // The row lives in llama.cpp's buffer until the next pass; drawing needs the worker whole.
                let mut logits = std::mem::take(&mut self.row);
                logits.clear();
                logits.extend_from_slice(self.cells.context.get_logits_ith(row.at));
                self.keep_prompt_row(row.slot, &logits);
                self.draw(row.slot, &logits);
                self.row = logits;
            }
            Some(Work::Score { job, log_probs }) => {
                let logits = self.cells.context.get_logits_ith(row.at);
                match raw_log_prob(logits, job.tokens[row.position + 1], &mut self.sampler) {
                    Ok(log_prob) => log_probs.push(log_prob),
                    Err(error) => self.reply(row.slot, Err(error.to_string())),
                }
            }
            // An earlier row of this pass ended its request.
            None => {}
        }
    }

    /// Keeps the row after a prompt for the choices that have no slot yet.
    fn keep_prompt_row(&self, i: usize, logits: &[f32]) {
        if let Some(Work::Answer(sequence)) = &self.slots[i].work
            && sequence.last_token().is_none()
            && sequence.exchange.n_unstarted() > 0
        {
            sequence.exchange.prompt_row.replace(Some(logits.to_vec()));
        }
    }

    /// A pass that failed takes everything with it that was in it; the rest goes on.
    fn give_up(&mut self, plan: &Plan, reason: &str) {
        for (i, _) in &plan.gains {
            match &self.slots[*i].work {
                Some(Work::Answer(sequence)) => {
                    let exchange = Rc::clone(&sequence.exchange);
                    self.fail(&exchange, reason);
                }
                Some(Work::Score { .. }) => self.reply(*i, Err(reason.to_owned())),
                None => {}
            }
            self.cells.clear(*i);
        }
    }

    /// Runs `tokens` through the empty first sequence and tells whether every row of logits is finite.
    pub(super) fn forward_all(&mut self, tokens: &[TokenId]) -> Result<bool, String> {
        self.batch.clear();
        let mut plan = Plan::default();
        self.add(&mut plan, 0, tokens.to_vec(), tokens.len());
        let turn = self.setup.gate.enter();
        self.cells.decode(&mut self.batch).map_err(|e| e.to_string())?;
        drop(turn);
        let finite = plan.rows.iter().all(|row| largest_logit(self.cells.context.get_logits_ith(row.at)).is_ok());
        self.cells.clear(0);
        Ok(finite)
    }
}

fn llama(token: TokenId) -> LlamaToken {
    LlamaToken(i32::try_from(token.0).expect("token ids were checked against the vocabulary"))
}
