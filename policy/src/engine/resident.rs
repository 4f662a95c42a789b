//! One version in memory, seen from outside: a door to its owner thread.
//!
//! The only sender of the owner thread's channel lives behind the door. To drain is to drop it: whoever got through before
//! is served, the thread sees the channel end once all of that is read, finishes and frees its memory. No message can fall
//! between a last look and a closed channel.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{
    engine::{
        EngineError, GenerateRequest, Rejection,
        loading::Weights,
        nursery::Nursery,
        stats::{Counters, ResidentCounters},
        stopwatch::TimeJob,
        tenant::{Crowd, FIRST_SEQUENCES, Place, Tenant, Waiting, WaitingMax},
        worker::{Setup, Worker},
    },
    log_prob::LogProb,
    memory::allocator,
    token::TokenId,
    version::PolicyVersion,
};

/// Scorings and measurements that may wait for one resident; they are rare (canary, parity, the watch) and their callers block.
pub(super) const SCORES_MAX: usize = 64;

/// What the owner thread can be asked.
pub(super) enum Command {
    /// Answer the prompts of one request, which hold one place until the last of them has a slot.
    Generate(Vec<Job>, Place),
    /// Log-probs of given tokens.
    Score(ScoreJob),
    /// Time that given tokens take.
    Time(TimeJob),
}

/// An admitted request.
pub(super) struct Job {
    pub(super) request: GenerateRequest,
    /// The request's own seed, or the engine's next.
    pub(super) seed: u64,
    /// Tokens of prompt and response that one of its choices may have.
    pub(super) choice_tokens_max: usize,
    pub(super) submitted: Instant,
}

impl Job {
    /// What so many of its choices ask for.
    pub(super) fn choices(&self, n: u32) -> Crowd {
        let n = n as usize;
        Crowd { requests: 0, sequences: n, tokens: n.saturating_mul(self.choice_tokens_max) }
    }
}

/// Tokens to be scored by teacher forcing.
pub(super) struct ScoreJob {
    pub(super) tokens: Vec<TokenId>,
    pub(super) reply: Sender<Result<Vec<LogProb>, String>>,
}

/// Numbers that both sides of the door see.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Requests admitted and not yet in a slot.
    pub(super) waiting: Arc<Waiting>,
    /// Slots in use.
    pub(super) running: AtomicUsize,
    /// Tokens that the sequences in those slots hold.
    pub(super) cache_tokens: AtomicUsize,
    /// Bytes that were promised to it, and that it has not taken yet.
    pub(super) untaken_bytes: AtomicU64,
    /// Scorings and measurements not yet over.
    pub(super) scoring: AtomicUsize,
    /// End everything now.
    pub(super) abort: AtomicBool,
}

/// Tells a resident from another one of the same version, before or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResidentId(u64);

impl ResidentId {
    fn next() -> ResidentId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ResidentId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The handle of one owner thread.
pub(super) struct Resident {
    pub(super) id: ResidentId,
    pub(super) version: PolicyVersion,
    pub(super) path: PathBuf,
    pub(super) load: Arc<Load>,
    pub(super) counters: Arc<ResidentCounters>,
    door: RwLock<Option<Sender<Command>>>,
    /// Ends when the thread has freed everything.
    freed: Receiver<()>,
    waiting_max: WaitingMax,
    parallel: usize,
    /// Tokens that its cache has room for.
    pub(super) cache_tokens_max: usize,
}

impl Resident {
    /// Serves a version on a thread of its own and waits until it has passed its canary. The weights were read by the caller,
    /// whose priority is the right one for that. `on_freed` runs on the thread after everything is freed, and is told whose it
    /// was.
    pub(super) fn start(
        nursery: &Nursery,
        (setup, weights): (Setup, Weights),
        counters: Arc<Counters>,
        waiting_max: WaitingMax,
        on_freed: impl FnOnce(ResidentId) + Send + 'static,
    ) -> Result<Resident, EngineError> {
        let id = ResidentId::next();
        let (version, path, parallel) = (setup.version, setup.path.clone(), setup.parallel);
        let cache_tokens_max = parallel * setup.context_tokens as usize;
        let waiting_max = waiting_max.with_first(FIRST_SEQUENCES, setup.context_tokens as usize);
        // Admission counts requests before they are sent, so the channel itself is never the limit.
        let (door, commands) = bounded(waiting_max.requests() + parallel + SCORES_MAX);
        let (ready, started) = bounded(1);
        let (freeing, freed) = bounded::<()>(0);
        let load = Arc::new(Load::default());
        let counters = Arc::new(ResidentCounters::new(counters));
        let (shared, counted) = (Arc::clone(&load), Arc::clone(&counters));
        let body = move || {
            Worker::run(weights, setup, shared, counted, &commands, &ready);
            // First: whoever waits for its place asks how much memory there is.
            allocator::give_back();
            on_freed(id);
            drop(freeing);
        };
        nursery.spawn(version, Box::new(body))?;
        let lost = || EngineError::Load { path: path.clone(), reason: "its thread ended".into() };
        started.recv().map_err(|_| lost())??;
        let door = RwLock::new(Some(door));
        Ok(Resident { id, version, path, load, counters, door, freed, waiting_max, parallel, cache_tokens_max })
    }

    /// Admits the prompts of one request, which take one place together, or gives them back with the reason.
    pub(super) fn submit(&self, jobs: Vec<Job>) -> Result<(), (Vec<Job>, Rejection)> {
        let door = self.door.read().expect("no holder of the door panics");
        let Some(sender) = door.as_ref() else {
            return Err((jobs, Rejection::Draining(self.version)));
        };
        let free = self.parallel.saturating_sub(self.load.running.load(Ordering::Relaxed));
        let tenant = jobs.first().map_or(Tenant::ANYBODY, |job| job.request.tenant);
        let one = Crowd { requests: 1, ..Crowd::default() };
        let asked = jobs.iter().fold(one, |asked, job| asked.and(job.choices(job.request.n)));
        let free = Crowd { requests: free, sequences: free, tokens: free * (self.cache_tokens_max / self.parallel) };
        let place = match self.load.waiting.enter(tenant, asked, self.waiting_max.and(free)) {
            Ok(place) => place,
            Err(waiting) => return Err((jobs, Rejection::Full { waiting })),
        };
        sender.try_send(Command::Generate(jobs, place)).map_err(|refused| {
            let Command::Generate(jobs, _) = refused.into_inner() else { unreachable!("it was a Generate") };
            (jobs, Rejection::Draining(self.version))
        })
    }

    /// Scores tokens; blocks until the owner thread has done it between other work.
    pub(super) fn score(&self, tokens: Vec<TokenId>) -> Result<Vec<LogProb>, EngineError> {
        let failed = |reason: String| EngineError::Forward { version: self.version, reason };
        let (reply, answer) = bounded(1);
        self.hand_over(Command::Score(ScoreJob { tokens, reply }))?;
        answer.recv().map_err(|_| failed("its thread ended".into()))?.map_err(failed)
    }

    /// Hands over what wants a slot and is no request.
    pub(super) fn hand_over(&self, aside: Command) -> Result<(), EngineError> {
        let door = self.door.read().expect("no holder of the door panics");
        let sender = door.as_ref().ok_or(EngineError::NotResident(self.version))?;
        let admit = |scoring| (scoring < SCORES_MAX).then_some(scoring + 1);
        self.load.scoring.fetch_update(Ordering::AcqRel, Ordering::Acquire, admit).map_err(|n| {
            EngineError::Forward {
                version: self.version,
                reason: format!("{n} scorings or measurements are waiting already"),
            }
        })?;
        sender.try_send(aside).map_err(|_| {
            self.load.scoring.fetch_sub(1, Ordering::AcqRel);
            EngineError::NotResident(self.version)
        })
    }

    /// Closes the door; what is inside finishes. Returns at once.
    pub(super) fn drain(&self) {
        self.door.write().expect("no holder of the door panics").take();
    }

    /// Whether the door is closed.
    pub(super) fn is_draining(&self) -> bool {
        self.door.read().expect("no holder of the door panics").is_none()
    }

    /// Ends everything inside within one decode step.
    pub(super) fn abort(&self) {
        self.load.abort.store(true, Ordering::Release);
    }

    /// Waits until the owner thread has freed everything; false when `timeout` passed first.
    pub(super) fn wait_freed(&self, timeout: Duration) -> bool {
        self.freed.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }
}

/// A resident as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidentStatus {
    /// Its version.
    pub version: PolicyVersion,
    /// What it is doing.
    pub state: ResidentState,
    /// Its weight file.
    pub path: PathBuf,
    /// Responses being prefilled or decoded.
    pub running: usize,
    /// Requests waiting for a slot.
    pub waiting: usize,
}

/// What a resident is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidentState {
    /// Requests for the live policy go here.
    Live,
    /// In memory and addressable by its number.
    Ready,
    /// Finishes what it runs, then frees its memory.
    Draining,
}

impl ResidentState {
    /// Whether a request that names the version is answered.
    #[must_use]
    pub fn admits(self) -> bool {
        self != ResidentState::Draining
    }
}

impl Resident {
    pub(super) fn status(&self, live: PolicyVersion) -> ResidentStatus {
        let state = match self.version {
            _ if self.is_draining() => ResidentState::Draining,
            version if version == live => ResidentState::Live,
            _ => ResidentState::Ready,
        };
        ResidentStatus {
            version: self.version,
            state,
            path: Path::to_owned(&self.path),
            running: self.load.running.load(Ordering::Relaxed),
            waiting: self.load.waiting.count(),
        }
    }
}
