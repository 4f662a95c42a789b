//! The engine: versions of the policy as residents behind owner threads.
//!
//! A *resident* is one version in memory: a model, of the decoder or of llama.cpp, one context, and the one thread that touches them. Requests go
//! to a resident and stay there, so a response comes from exactly one version, its key-value cache can never be stale, and
//! a swap never changes weights under a stream. The handle maps versions to residents and holds the live one behind one
//! atomic pointer:
//!
//! ```text
//! load(v)      own thread: check the file, build model and context, canary; the live version keeps serving
//! promote(v)   swap the pointer; new requests go to v
//! retire(old)  close its door; it finishes what it runs and frees its memory; nobody waits
//! ```
//!
//! Version 0 stays resident: it is the reference, and clients may address it as `sft`.
//!
//! Inside a resident (`worker`), sequences join and leave one batch at token boundaries; `sampler` draws in Rust, so that
//! every token carries the probability that it was really drawn with.

mod adapter;
mod admission;
pub(crate) mod backend;
mod canary;
mod cells;
mod compute;
mod constraint;
mod ending;
mod error;
mod exchange;
mod footprint;
mod gaps;
mod gate;
pub(crate) mod gguf;
mod hardware;
mod history;
mod loading;
mod model;
mod nursery;
mod places;
mod plan;
mod prefix_cache;
mod queue;
mod request;
mod resident;
mod rest;
mod reuse;
mod room;
pub mod sampler;
mod sequence;
mod softmax;
mod stats;
mod step;
mod step_times;
mod stopwatch;
mod submission;
mod tenant;
mod text;
mod truncation;
mod versions;
mod worker;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;

use self::{
    canary::Canary,
    constraint::Compiler,
    gate::Gate,
    model::Model,
    nursery::Nursery,
    resident::Resident,
    stats::Counters,
    tenant::{Crowd, WaitingMax},
    worker::Setup,
};
pub use self::{
    constraint::Constraint,
    error::EngineError,
    hardware::{Hardware, hardware},
    request::{
        CHOICES_MAX, CancelFlag, Event, Failure, Finished, GenerateRequest, Rejection, ScoredToken, Sink,
        TOP_LOG_PROBS_MAX, Target, Timings,
    },
    resident::{ResidentState, ResidentStatus},
    room::{Part, Room},
    stats::{Endings, EngineStats, FINISH_REASONS, STEP_SIZES},
    step_times::{BATCH_SIZES, StepTimes},
    tenant::Tenant,
    versions::{InMemory, Recall},
};
use crate::{
    failpoint,
    grammar::{Grammar, GrammarError},
    log_prob::LogProb,
    sampling::check_token,
    token::TokenId,
    version::PolicyVersion,
    vocabulary::Vocabulary,
};

const UNPOISONED: &str = "no holder of this lock panics";

/// The handle; clones share one engine.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    config: config::Policy,
    vocabulary: Arc<Vocabulary>,
    context_tokens: u32,
    gate: Arc<Gate>,
    /// Version 0's weights, which versions that are adapters share.
    base: Model,
    nursery: Nursery,
    compiler: Compiler,
    residents: Arc<DashMap<PolicyVersion, Arc<Resident>>>,
    live: ArcSwap<Resident>,
    /// Takes a share of what is for the live one.
    canary: ArcSwapOption<Canary>,
    /// Held while a version is loaded, whoever wants it.
    loading: Mutex<()>,
    /// Held while the live pointer or a door changes, so that what is promoted is never retired at the same moment. In it, the
    /// version that has stepped down.
    swap: Mutex<Option<PolicyVersion>>,
    /// Draining residents whose version was loaded again; the shutdown waits for them too.
    replaced: Mutex<Vec<Arc<Resident>>>,
    counters: Arc<Counters>,
    /// Requests that brought no seed; each takes the next stream.
    unseeded: AtomicU64,
    shutting_down: AtomicBool,
    /// Who is told when a version has left memory.
    freed: versions::Freed,
}

impl Engine {
    /// Loads version 0 and serves it.
    ///
    /// # Errors
    /// [`EngineError`] when llama.cpp does not start, `policy.gpu_layers` asks for a GPU and there is none, or the file cannot be
    /// served.
    pub fn start(config: &config::Policy, sft: &Path) -> Result<Engine, EngineError> {
        hardware::check_gpu(config.gpu_layers)?;
        failpoint::reached("engine.start")
            .map_err(|error| EngineError::Load { path: sft.to_owned(), reason: error.to_string() })?;
        let vocabulary = Arc::new(Vocabulary::load(sft)?);
        let context_tokens = worker::context_tokens(config, &vocabulary);
        let residents = Arc::new(DashMap::new());
        let counters = Arc::new(Counters::default());
        let gate = Arc::new(Gate::default());
        let nursery = Nursery::start()?;
        let compiler = Compiler::start(Arc::clone(&vocabulary))?;
        let setup = Setup::new(config, &vocabulary, &gate, context_tokens, PolicyVersion::SFT, sft);
        let weights = loading::weights(&setup, None)?;
        let base = weights.model.clone();
        let start = Resident::start(&nursery, (setup, weights), Arc::clone(&counters), waiting_max(config), |_| ());
        let first = Arc::new(start?);
        failpoint::passed("engine.started");
        residents.insert(PolicyVersion::SFT, Arc::clone(&first));
        Ok(Engine(Arc::new(Shared {
            config: config.clone(),
            vocabulary,
            context_tokens,
            gate,
            base,
            nursery,
            compiler,
            residents,
            live: ArcSwap::new(first),
            canary: ArcSwapOption::empty(),
            loading: Mutex::default(),
            swap: Mutex::default(),
            replaced: Mutex::new(Vec::new()),
            counters,
            unseeded: AtomicU64::new(0),
            shutting_down: AtomicBool::new(false),
            freed: versions::Freed::default(),
        })))
    }

    /// The version that answers requests for the live policy.
    #[must_use]
    pub fn live(&self) -> PolicyVersion {
        self.0.live.load().version
    }

    /// Every version in memory, by number.
    #[must_use]
    pub fn residents(&self) -> Vec<ResidentStatus> {
        let live = self.live();
        let mut all: Vec<_> = self.0.residents.iter().map(|resident| resident.status(live)).collect();
        all.sort_by_key(|status| status.version);
        all
    }

    /// The tokenizer that all versions share.
    #[must_use]
    pub fn vocabulary(&self) -> Arc<Vocabulary> {
        Arc::clone(&self.0.vocabulary)
    }

    /// What computes version 0, and every version whose file is of the same types.
    #[must_use]
    pub fn computed_by(&self) -> &'static str {
        self.0.base.computed_by()
    }

    /// Tokens of prompt and response together that one sequence may hold.
    #[must_use]
    pub fn context_tokens(&self) -> u32 {
        self.0.context_tokens
    }

    /// Compiles a grammar for [`GenerateRequest::constraint`]. Blocks the caller, for seconds at worst.
    ///
    /// # Errors
    /// [`GrammarError`].
    pub fn constrain(&self, grammar: Grammar) -> Result<Constraint, GrammarError> {
        self.0.compiler.compile(grammar)
    }

    /// Log-probabilities of `tokens` under a version, by teacher forcing at temperature 1 over the full vocabulary: entry
    /// `i` is `log p(tokens[i + 1] | tokens[..=i])`, nats, so there is one less than tokens. Blocks the caller.
    ///
    /// # Errors
    /// [`EngineError::Tokens`] for fewer than two tokens, more than the context window, or unknown ids;
    /// [`EngineError::NotResident`]; [`EngineError::Forward`].
    pub fn log_probs(&self, version: PolicyVersion, tokens: &[TokenId]) -> Result<Vec<LogProb>, EngineError> {
        self.check_tokens(tokens, 2)?;
        self.resident(version).ok_or(EngineError::NotResident(version))?.score(tokens.to_vec())
    }

    /// Lets all residents rest from their next pass on, for at most 20 ms, so that threads of lower priority come to their
    /// share. Returns at once; asking again later moves the end.
    pub fn rest(&self, duration: Duration) {
        self.0.counters.rest.ask(duration);
    }

    /// Gauges and counters of all residents together.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let mut stats = self.0.counters.read();
        for resident in self.0.residents.iter() {
            stats.running += resident.load.running.load(Ordering::Relaxed);
            stats.cache_tokens += resident.load.cache_tokens.load(Ordering::Relaxed);
            stats.cache_tokens_max += resident.cache_tokens_max;
            stats.waiting += resident.load.waiting.count();
        }
        stats
    }

    /// How what was asked of a version has ended since it came into memory; nothing where it is not there.
    #[must_use]
    pub fn endings(&self, version: PolicyVersion) -> Endings {
        self.resident(version).map(|resident| resident.counters.endings()).unwrap_or_default()
    }

    /// How long a version's decode steps have taken since it came into memory; nothing where it is not there.
    #[must_use]
    pub fn step_times(&self, version: PolicyVersion) -> StepTimes {
        self.resident(version).map(|resident| resident.counters.decode_steps.read()).unwrap_or_default()
    }

    /// Whether these can be computed: at least so many, as many as fit, and known.
    fn check_tokens(&self, tokens: &[TokenId], n_min: usize) -> Result<(), EngineError> {
        let (n, n_max) = (tokens.len(), self.0.context_tokens);
        if n < n_min || n > n_max as usize {
            return Err(EngineError::Tokens(format!("expected {n_min} to {n_max} tokens, got {n}")));
        }
        tokens.iter().try_for_each(|&id| {
            check_token("tokens", id, self.0.vocabulary.size()).map_err(|e| EngineError::Tokens(e.to_string()))
        })
    }

    fn resident(&self, version: PolicyVersion) -> Option<Arc<Resident>> {
        self.0.residents.get(&version).map(|entry| Arc::clone(entry.value()))
    }
}

/// How many requests may wait for one resident, and with how many sequences and tokens.
fn waiting_max(config: &config::Policy) -> WaitingMax {
    let (requests, sequences, tokens) = (config.max_queue, config.max_queue_sequences, config.max_queue_tokens);
    let all = Crowd { requests, sequences, tokens };
    WaitingMax::new(all, config.max_queue_share)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("live", &self.live()).field("residents", &self.residents()).finish()
    }
}

#[cfg(test)]
#[path = "engine/tests/suite.rs"]
mod tests;

#[cfg(test)]
#[allow(clippy::duplicate_mod)] // Every test of the engine once with each of what computes.
#[path = "engine/tests/suite.rs"]
mod tests_on_llama_cpp;
