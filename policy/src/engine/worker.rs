//! The owner thread of a resident: the only one that touches its model and context.
//!
//! A round of the loop: read what arrived, end what was cancelled, give free slots to what waits, one forward pass, draw
//! from the rows that it gave. So cancellation is honoured, and a newcomer can start, after at most one forward pass.
//!
//! In a pass the decoding sequences come first with one token each; prompts fill the rest up to `batch_tokens`, oldest
//! first, so a long prompt is computed in chunks between decode steps and never stalls a stream for longer than one chunk.
//! While a version is loaded or another one drains, streams wait for more than their own pass, and chunks are smaller.
//!
//! Choices of one request share their prompt: the first computes it, the others copy its cache and start from the same row
//! of logits, at once or as slots become free. They draw what separate requests with the same seeds would have drawn, by
//! the decoder to the bit. By llama.cpp the last bits of logits depend on the shape of a pass, but in the deterministic mode, where
//! every sequence has passes of its own.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    engine::{
        EngineError,
        cells::{Audience, Cells},
        compute::Entry,
        exchange::Exchange,
        gaps::Gaps,
        gate::{AtWork, Gate},
        loading::{self, Adapter, FlashAttention, Weights},
        model::Backend,
        queue::Queue,
        resident::{Command, Job, Load, ScoreJob},
        reuse::Awaited,
        sampler::Sampler,
        sequence::Sequence,
        stats::ResidentCounters,
        stopwatch::{TimeJob, Timing},
        tenant::Place,
    },
    log_prob::LogProb,
    version::PolicyVersion,
    vocabulary::Vocabulary,
};
use crossbeam_channel::{Receiver, Sender, TryRecvError};

/// Context window when the configuration leaves it to the model.
const CONTEXT_TOKENS_MAX: u32 = 4096;

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
    pub(super) flash_attention: FlashAttention,
    /// Tokens of the prefix cache, as configured.
    pub(super) prefix_cache_tokens: usize,
    /// Whether a sequence's bits may depend on nothing but itself.
    pub(super) deterministic: bool,
    pub(super) backend: Backend,
    /// Shared by all residents.
    pub(super) gate: Arc<Gate>,
    /// Whether others serve while this one is loaded.
    pub(super) beside_serving: bool,
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
            flash_attention: FlashAttention::of(&config.flash_attention),
            prefix_cache_tokens: config.prefix_cache_tokens,
            deterministic: config.deterministic,
            backend: Backend::of(&config.backend),
            gate: Arc::clone(gate),
            beside_serving: version != PolicyVersion::SFT,
        }
    }
}

/// The context window of one sequence: as configured, or what the model was trained for.
pub(super) fn context_tokens(config: &config::Policy, vocabulary: &Vocabulary) -> u32 {
    match config.context_tokens {
        0 => vocabulary.trained_context().unwrap_or(CONTEXT_TOKENS_MAX).clamp(2, CONTEXT_TOKENS_MAX),
        configured => configured.max(2),
    }
}

/// What a slot works on.
pub(super) enum Work {
    /// Drawing a response. Decoding once it has drawn a token, in prefill before.
    Answer(Box<Sequence>),
    /// Scoring given tokens.
    Score { job: ScoreJob, log_probs: Vec<LogProb> },
    /// Computing given tokens against the clock.
    Time(Timing),
}

/// One of the `parallel` places in the batch; its index is its sequence's.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) work: Option<Work>,
    /// When it was given out: prompts are computed in this order.
    pub(super) ticket: u64,
    /// The beginning of its prompt that another slot computes.
    pub(super) awaits: Option<Awaited>,
}

pub(super) struct Worker<'m> {
    pub(super) setup: Setup,
    pub(super) cells: Cells<'m>,
    pub(super) batch: Vec<Entry>,
    /// Whether every sequence has passes of its own.
    pub(super) isolates: bool,
    pub(super) slots: Vec<Slot>,
    pub(super) sampler: Sampler,
    /// A row of logits while it is drawn from; kept for its allocation.
    pub(super) row: Vec<f32>,
    pub(super) counters: Arc<ResidentCounters>,
    pub(super) load: Arc<Load>,
    pub(super) queue: Queue,
    /// Bounded by admission.
    pub(super) scores: VecDeque<ScoreJob>,
    /// Likewise.
    pub(super) timings: VecDeque<TimeJob>,
    pub(super) tickets: u64,
    /// The slot whose turn it was last, where each has passes of its own.
    pub(super) turn: usize,
    pub(super) gaps: Gaps,
    /// Prompts admitted so far.
    n_admitted: u64,
    /// While there is something to do.
    at_work: Option<AtWork>,
    /// How long the last pass took, waiting and drawing included.
    pub(super) last_pass: Duration,
    /// Freed after the context, which computes with it: fields are dropped in this order.
    pub(super) _adapter: Option<Adapter<'m>>,
}

impl Worker<'_> {
    /// The whole life of an owner thread: context, canary, say so on `ready`, serve until the door is closed and the work done.
    pub(super) fn run(
        weights: Weights,
        setup: Setup,
        load: Arc<Load>,
        counters: Arc<ResidentCounters>,
        commands: &Receiver<Command>,
        ready: &Sender<Result<(), EngineError>>,
    ) {
        match Worker::build(&weights, setup, load, counters) {
            Ok(mut worker) => {
                if ready.send(Ok(())).is_ok() {
                    worker.serve(commands);
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    }

    fn build(
        weights: &Weights,
        setup: Setup,
        load: Arc<Load>,
        counters: Arc<ResidentCounters>,
    ) -> Result<Worker<'_>, EngineError> {
        let model = &weights.model;
        let adapter = loading::adapter(weights, &setup)?;
        let compute = loading::compute(weights, adapter.as_ref(), &setup)?;
        let mut worker = Worker {
            cells: Cells::new(
                compute,
                setup.parallel,
                loading::copy_pays_from(model, &setup),
                loading::cache_tokens(model, &setup),
            ),
            batch: Vec::with_capacity(setup.batch_tokens + setup.parallel),
            isolates: loading::isolates(model, &setup),
            slots: std::iter::repeat_with(Slot::default).take(setup.parallel).collect(),
            sampler: Sampler::default(),
            row: Vec::new(),
            counters,
            load,
            queue: Queue::default(),
            scores: VecDeque::new(),
            timings: VecDeque::new(),
            tickets: 0,
            turn: 0,
            gaps: Gaps::new(loading::reads_of_a_move(model, &setup)),
            n_admitted: 0,
            at_work: None,
            last_pass: Duration::ZERO,
            setup,
            _adapter: adapter,
        };
        loading::canary(&mut worker.cells, &worker.setup)?;
        // Before anybody else is loaded.
        worker.publish_load();
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
                self.at_work = None;
                if !open {
                    break;
                }
            } else {
                self.at_work.get_or_insert_with(|| self.setup.gate.work());
                self.counters.engine.rest.keep(self.last_pass);
                let began = Instant::now();
                self.step();
                self.last_pass = began.elapsed();
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
            Command::Generate(jobs, place) => {
                let place = Rc::new(place);
                jobs.into_iter().for_each(|job| self.enqueue(job, Rc::clone(&place)));
            }
            Command::Score(job) => self.scores.push_back(job),
            Command::Time(job) => self.timings.push_back(job),
        }
    }

    fn enqueue(&mut self, job: Job, place: Rc<Place>) {
        self.n_admitted += 1;
        let audience = match self.isolates {
            true => Audience::Choices(self.n_admitted),
            false => Audience::of(job.request.cache_salt.as_ref()),
        };
        self.queue.push(Rc::new(Exchange::new(job, place, audience, &self.setup.vocabulary)));
    }

    fn is_idle(&self) -> bool {
        let nothing_waits = self.queue.is_empty() && self.scores.is_empty() && self.timings.is_empty();
        nothing_waits && self.slots.iter().all(|slot| slot.work.is_none())
    }

    pub(super) fn publish_load(&self) {
        let running = (0..self.slots.len()).filter(|&i| self.slots[i].work.is_some());
        self.load.running.store(running.clone().count(), Ordering::Relaxed);
        self.load.untaken_bytes.store(self.cells.compute.untaken_bytes() as u64, Ordering::Relaxed);
        self.load.cache_tokens.store(running.map(|i| self.cells.held(i).len()).sum(), Ordering::Relaxed);
    }
}
