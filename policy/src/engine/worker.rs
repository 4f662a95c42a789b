//! The owner thread of a resident: the only one that touches its model and context.
//!
//! A round of the loop: read what arrived, end what was cancelled, give free slots to what waits, one forward pass, draw
//! from the rows that it gave. So cancellation is honoured, and a newcomer can start, after at most one forward pass.
//!
//! In a pass the decoding sequences come first with one token each; prompts fill the rest up to `batch_tokens`, oldest
//! first, so a long prompt is computed in chunks between decode steps and never stalls a stream for longer than one chunk.
//!
//! Choices of one request share their prompt: the first computes it, the others copy its cache and start from the same row
//! of logits, at once or as slots become free.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use llama_cpp_2::{llama_batch::LlamaBatch, model::LlamaModel};

use crate::{
    engine::{
        EngineError,
        cells::Cells,
        gate::Gate,
        loading,
        resident::{Command, Load, ScoreJob},
        sampler::Sampler,
        sequence::{Exchange, Sequence, Surroundings},
        stats::{Counters, add},
    },
    log_prob::LogProb,
    rollout::FinishReason,
    token::TokenId,
    version::PolicyVersion,
    vocabulary::Vocabulary,
};

/// Context window when the configuration leaves it to the model.
const CONTEXT_TOKENS_MAX: u32 = 4096;

/// A beginning in the cache that decides which slot a prompt goes to.
const REUSE_TOKENS_MIN: usize = 16;

/// What a resident is built from.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) version: PolicyVersion,
    pub(super) path: PathBuf,
    pub(super) vocabulary: Arc<Vocabulary>,
    pub(super) context_tokens: u32,
    pub(super) parallel: usize,
    pub(super) batch_tokens: usize,
    /// As configured; 0 leaves it to the size of the model.
    pub(super) threads: usize,
    pub(super) gpu_layers: u32,
    /// Shared by all residents.
    pub(super) gate: Arc<Gate>,
}

impl Setup {
    pub(super) fn new(
        config: &config::Policy,
        vocabulary: &Arc<Vocabulary>,
        gate: &Arc<Gate>,
        context_tokens: u32,
        version: PolicyVersion,
        path: &Path,
    ) -> Setup {
        Setup {
            version,
            path: path.to_owned(),
            vocabulary: Arc::clone(vocabulary),
            context_tokens,
            parallel: config.parallel,
            batch_tokens: config.batch_tokens as usize,
            threads: config.threads,
            gpu_layers: config.gpu_layers,
            gate: Arc::clone(gate),
        }
    }
}

/// The context window of one sequence: as configured, or what the model was trained for.
pub(super) fn context_tokens(config: &config::Policy, vocabulary: &Vocabulary) -> u32 {
    match config.context_tokens {
        0 => vocabulary
            .trained_context()
            .unwrap_or(CONTEXT_TOKENS_MAX)
            .clamp(2, CONTEXT_TOKENS_MAX),
        configured => configured.max(2),
    }
}

/// What a slot works on.
pub(super) enum Work {
    /// Drawing a response. Decoding once it has drawn a token, in prefill before.
    Answer(Sequence),
    /// Scoring given tokens.
    Score {
        job: ScoreJob,
        log_probs: Vec<LogProb>,
    },
}

/// One of the `parallel` places in the batch; its index is llama.cpp's sequence id.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) work: Option<Work>,
    /// When it was given out: prompts are computed in this order.
    pub(super) ticket: u64,
}

pub(super) struct Worker<'m> {
    pub(super) setup: Setup,
    pub(super) cells: Cells<'m>,
    pub(super) batch: LlamaBatch<'static>,
    pub(super) slots: Vec<Slot>,
    pub(super) sampler: Sampler,
    /// A row of logits while it is drawn from; kept for its allocation.
    pub(super) row: Vec<f32>,
    pub(super) counters: Arc<Counters>,
    load: Arc<Load>,
    /// Requests none of whose choices has a slot. Bounded by admission.
    queue: VecDeque<Rc<Exchange>>,
    /// Requests whose prompt is computed or being computed and which have choices left. At most one per slot ever given.
    forking: VecDeque<Rc<Exchange>>,
    /// Bounded by admission.
    scores: VecDeque<ScoreJob>,
    tickets: u64,
}

impl Worker<'_> {
    /// The whole life of an owner thread: context, canary, say so on `ready`, serve until the door is closed and the work done.
    pub(super) fn run(
        model: LlamaModel,
        setup: Setup,
        load: Arc<Load>,
        counters: Arc<Counters>,
        commands: &Receiver<Command>,
        ready: &Sender<Result<(), EngineError>>,
    ) {
        match Worker::build(&model, setup, load, counters) {
            Ok(mut worker) => {
                if ready.send(Ok(())).is_ok() {
                    worker.serve(commands);
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    }

    fn build(
        model: &LlamaModel,
        setup: Setup,
        load: Arc<Load>,
        counters: Arc<Counters>,
    ) -> Result<Worker<'_>, EngineError> {
        let context = loading::context(model, &setup)?;
        let mut worker = Worker {
            cells: Cells::new(
                context,
                setup.parallel,
                loading::copy_pays_from(model, &setup),
            ),
            batch: LlamaBatch::new(setup.batch_tokens + setup.parallel, 1),
            slots: std::iter::repeat_with(Slot::default)
                .take(setup.parallel)
                .collect(),
            sampler: Sampler::default(),
            row: Vec::new(),
            counters,
            load,
            queue: VecDeque::new(),
            forking: VecDeque::new(),
            scores: VecDeque::new(),
            tickets: 0,
            setup,
        };
        worker.canary()?;
        Ok(worker)
    }

    fn serve(&mut self, commands: &Receiver<Command>) {
        let mut open = true;
        loop {
            open = open && self.receive(commands);
            if self.load.abort.load(Ordering::Acquire) {
                self.cancel_all();
            }
            self.sweep_cancelled();
            self.fill_slots();
            self.publish_load();
            if self.is_idle() {
                if !open {
                    break;
                }
            } else {
                self.counters.rest.keep();
                self.step();
            }
        }
    }

    /// Takes everything that arrived; waits only when there is nothing else to do. False once the door is closed.
    fn receive(&mut self, commands: &Receiver<Command>) -> bool {
        if self.is_idle() {
            match commands.recv() {
                Ok(command) => self.admit(command),
                Err(_) => return false,
            }
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.admit(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn admit(&mut self, command: Command) {
        match command {
            Command::Generate(job) => self
                .queue
                .push_back(Rc::new(Exchange::new(job, &self.setup.vocabulary))),
            Command::Score(job) => self.scores.push_back(job),
        }
    }

    fn is_idle(&self) -> bool {
        let nothing_waits =
            self.queue.is_empty() && self.forking.is_empty() && self.scores.is_empty();
        nothing_waits && self.slots.iter().all(|slot| slot.work.is_none())
    }

    fn publish_load(&self) {
        let running = self.slots.iter().filter(|slot| slot.work.is_some()).count();
        self.load.running.store(running, Ordering::Relaxed);
    }

    /// Ends every request whose client has gone, wherever it is.
    fn sweep_cancelled(&mut self) {
        for i in 0..self.slots.len() {
            if matches!(&self.slots[i].work, Some(Work::Answer(sequence)) if sequence.exchange.is_cancelled())
            {
                self.finish(i, FinishReason::Cancelled);
            }
        }
        self.drop_waiting(|exchange| exchange.is_cancelled());
    }

    fn cancel_all(&mut self) {
        for i in 0..self.slots.len() {
            if matches!(self.slots[i].work, Some(Work::Answer(_))) {
                self.finish(i, FinishReason::Cancelled);
            }
        }
        self.drop_waiting(|_| true);
    }

    /// Ends what waits for a slot and is `over`: choices without a token each get their `Finished`, unless the request
    /// failed.
    pub(super) fn drop_waiting(&mut self, over: impl Fn(&Exchange) -> bool) {
        let mut ended = Vec::new();
        for list in [&mut self.queue, &mut self.forking] {
            list.retain(|exchange| {
                let over = over(exchange);
                if over {
                    ended.push(Rc::clone(exchange));
                }
                !over
            });
        }
        for exchange in ended {
            if exchange.n_started.get() == 0 {
                self.load.waiting.fetch_sub(1, Ordering::AcqRel);
            }
            while exchange.n_unstarted() > 0 {
                let sequence = Sequence::next_of(&exchange);
                if !exchange.failed.get() {
                    sequence.finish(FinishReason::Cancelled, self.setup.version, &self.counters);
                }
            }
        }
    }

    /// Gives free slots away: to scorings, to further choices of computed prompts, to requests in order of arrival.
    fn fill_slots(&mut self) {
        while self.slots.iter().any(|slot| slot.work.is_none()) {
            if let Some(job) = self.scores.pop_front() {
                self.start_score(job);
                continue;
            }
            if let Some(at) = self
                .forking
                .iter()
                .position(|exchange| exchange.prompt_row.borrow().is_some())
            {
                let exchange = Rc::clone(&self.forking[at]);
                if exchange.n_unstarted() == 1 {
                    self.forking.remove(at);
                }
                self.start_choice(&exchange);
                continue;
            }
            let Some(exchange) = self.queue.pop_front() else {
                return;
            };
            self.load.waiting.fetch_sub(1, Ordering::AcqRel);
            if exchange.n_unstarted() > 1 {
                self.forking.push_back(Rc::clone(&exchange));
            }
            self.start_choice(&exchange);
        }
    }

    fn start_score(&mut self, job: ScoreJob) {
        let i = self.free_slot(&[]);
        self.cells.clear(i);
        self.occupy(
            i,
            Work::Score {
                log_probs: Vec::with_capacity(job.tokens.len()),
                job,
            },
        );
    }

    /// Puts the next choice into a free slot, with as much of its prompt as any sequence of this context holds.
    fn start_choice(&mut self, exchange: &Rc<Exchange>) {
        let prompt = exchange.prompt();
        let i = self.free_slot(prompt);
        let own = self.cells.shared(i, prompt);
        let others = (0..self.slots.len()).map(|j| (self.cells.shared(j, prompt), j));
        let (most, other) = others.max().unwrap_or((own, i));
        let saves_a_pass =
            exchange.prompt_row.borrow().is_some() && most == prompt.len() && own < most;
        let pays = saves_a_pass || most >= own + self.cells.copy_pays_from;
        let (best, from) = if pays { (most, other) } else { (own, i) };
        let row = exchange.prompt_row.borrow();
        // Without the row after the prompt its last token must be computed again.
        let n = if row.is_some() {
            best
        } else {
            best.min(prompt.len() - 1)
        };
        let n = self.cells.take(i, from, n);
        let mut sequence = Sequence::next_of(exchange);
        sequence.cached_tokens = u32::try_from(n).unwrap_or(u32::MAX);
        add(&self.counters.prompt_tokens, prompt.len());
        add(&self.counters.cached_prompt_tokens, n);
        self.occupy(i, Work::Answer(sequence));
        if n == prompt.len()
            && let Some(row) = row.as_deref()
        {
            self.draw(i, row);
        }
        drop(row);
        if exchange.n_unstarted() == 0 {
            exchange.prompt_row.replace(None);
        }
    }

    /// The free slot that holds much of `prompt`, or else the lowest one: llama.cpp computes neighbouring sequences
    /// together, and gaps between them cost passes.
    fn free_slot(&self, prompt: &[TokenId]) -> usize {
        let free = (0..self.slots.len()).filter(|&i| self.slots[i].work.is_none());
        let worth = |i| {
            Some(self.cells.shared(i, prompt))
                .filter(|&n| n >= REUSE_TOKENS_MIN)
                .unwrap_or(0)
        };
        free.max_by_key(|&i| (worth(i), std::cmp::Reverse(i)))
            .expect("the caller saw a free slot")
    }

    fn occupy(&mut self, i: usize, work: Work) {
        self.tickets += 1;
        self.slots[i] = Slot {
            work: Some(work),
            ticket: self.tickets,
        };
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
                self.fail(&exchange, &error.to_string());
            }
        }
    }

    /// Ends the response in slot `i`; its cache stays for the next prompt that begins alike.
    fn finish(&mut self, i: usize, reason: FinishReason) {
        if let Some(Work::Answer(sequence)) = self.slots[i].work.take() {
            // Whoever is told of the end finds it in the gauge.
            self.publish_load();
            sequence.finish(reason, self.setup.version, &self.counters);
        }
    }

    /// Ends a whole request as failed: its other choices leave their slots, its waiting ones their list.
    pub(super) fn fail(&mut self, exchange: &Rc<Exchange>, reason: &str) {
        tracing::error!(version = %self.setup.version, request = exchange.job.request.id, reason, "a request failed");
        exchange.fail(reason, &self.counters);
        for i in 0..self.slots.len() {
            if matches!(&self.slots[i].work, Some(Work::Answer(other)) if Rc::ptr_eq(&other.exchange, exchange))
            {
                self.slots[i].work = None;
                self.cells.clear(i);
            }
        }
        self.drop_waiting(|other| other.failed.get());
    }

    /// Answers a scoring.
    pub(super) fn reply(&mut self, i: usize, answer: Result<Vec<LogProb>, String>) {
        if let Some(Work::Score { job, .. }) = self.slots[i].work.take() {
            self.load.scoring.fetch_sub(1, Ordering::AcqRel);
            // A caller that gave up is no failure.
            drop(job.reply.send(answer));
        }
    }
}
