//! One forward pass, and what is done with the rows that come out.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use crate::{
    engine::{
        Failure,
        plan::{Plan, Row},
        sampler::raw_log_prob,
        sequence::Surroundings,
        worker::{Work, Worker},
    },
    failpoint,
};

impl Worker<'_> {
    /// Builds a batch, runs it, and draws from its rows.
    pub(super) fn step(&mut self) {
        self.close_gaps();
        let plan = self.plan();
        if plan.gains.is_empty() {
            return;
        }
        match self.compute() {
            Ok(took) => self.apply(plan, took),
            Err(error) => self.give_up(&plan, &error),
        }
    }

    /// Runs the batch, once it is this resident's turn; how long it took from there on.
    fn compute(&mut self) -> Result<Duration, String> {
        let turn = self.setup.gate.enter();
        let began = Instant::now();
        failpoint::passed("engine.step");
        self.cells.decode(&self.batch, false)?;
        if self.setup.gpu_layers > 0 {
            // The device has only been told what to do. Others may tell it more meanwhile.
            drop(turn);
            self.cells.compute.synchronize();
        }
        Ok(began.elapsed())
    }

    fn apply(&mut self, plan: Plan, took: Duration) {
        self.count(&plan, took);
        for (i, tokens) in &plan.gains {
            self.cells.append(*i, tokens);
            if let Some(Work::Answer(sequence)) = &self.slots[*i].work {
                self.queue.charge(sequence.exchange.job.request.tenant, tokens.len());
            }
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
                Some(Work::Time(_)) | None => {}
            }
        }
        if let Some(i) = plan.timed {
            self.note_timing(i, took);
        }
    }

    fn count(&self, plan: &Plan, took: Duration) {
        let n_tokens = self.batch.len();
        self.counters.engine.count_step(n_tokens);
        // Of users' answers alone.
        if plan.n_given == 0 && plan.timed.is_none() {
            self.counters.decode_steps.count(n_tokens, took);
        }
    }

    fn take_row(&mut self, row: &Row) {
        match &mut self.slots[row.slot].work {
            Some(Work::Answer(sequence)) if row.position + 1 < sequence.exchange.prompt().len() => {
                let logits = self.cells.compute.logits(row.at);
                if let Err(error) = sequence.score_prompt(row.position, logits, &mut self.sampler) {
                    let exchange = Rc::clone(&sequence.exchange);
                    self.fail(&exchange, Failure::Engine(error.to_string()));
                }
            }
            Some(Work::Answer(_)) => {
                // The row lives in the context's buffer until the next pass; drawing needs the worker whole.
                let mut logits = std::mem::take(&mut self.row);
                logits.clear();
                logits.extend_from_slice(self.cells.compute.logits(row.at));
                self.keep_prompt_row(row.slot, &logits);
                self.draw(row.slot, &logits);
                self.row = logits;
            }
            Some(Work::Score { job, log_probs }) => {
                let logits = self.cells.compute.logits(row.at);
                match raw_log_prob(logits, job.tokens[row.position + 1], &mut self.sampler) {
                    Ok(log_prob) => log_probs.push(log_prob),
                    Err(error) => self.reply(row.slot, Err(error.to_string())),
                }
            }
            // What is timed is not drawn from; or an earlier row of this pass ended its request.
            Some(Work::Time(_)) | None => {}
        }
    }

    /// Draws the next token of slot `i` from `row` and ends the response if that was its last.
    pub(super) fn draw(&mut self, i: usize, row: &[f32]) {
        let Some(Work::Answer(sequence)) = &mut self.slots[i].work else {
            return;
        };
        let mut around = Surroundings {
            vocabulary: &self.setup.vocabulary,
            context_tokens: self.setup.context_tokens as usize,
            sampler: &mut self.sampler,
            counters: &self.counters,
        };
        match sequence.draw(row, &mut around) {
            Ok(None) => {}
            Ok(Some(reason)) => self.finish(i, reason),
            Err(error) => {
                let exchange = Rc::clone(&sequence.exchange);
                self.fail(&exchange, error.into());
            }
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
                    self.fail(&exchange, Failure::Engine(reason.to_owned()));
                }
                Some(Work::Score { .. }) => self.reply(*i, Err(reason.to_owned())),
                Some(Work::Time(_)) => self.end_timing(*i),
                None => {}
            }
            self.cells.clear(*i);
        }
    }
}
