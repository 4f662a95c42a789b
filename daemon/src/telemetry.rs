//! What the daemon says about itself: log lines and metrics.

mod averages;
pub(crate) mod engine;
mod foreign;
mod learning;
mod registrar;
mod rewards;
mod serving;
pub(crate) mod traces;

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
};

pub use engine::EngineMetrics;
pub use learning::LearningMetrics;
use ppo::rollout_log::ImportOutcome;
use prometheus::{Encoder, IntCounterVec, IntGauge, Registry, TextEncoder};
pub use rewards::RewardMetrics;
pub use serving::ServingMetrics;
pub use traces::TraceMetrics;
use tracing_subscriber::EnvFilter;

use self::{
    averages::AverageMetrics,
    registrar::{Registrar, raise},
};
use crate::http::{self, Services};

/// Sends log lines to standard error, so that standard output stays for answers. `RUST_LOG` chooses what is logged;
/// without it, lines of `level` and above are.
///
/// Only the first call of a process has an effect: the demo and tests start several daemons in one process.
pub fn init_logging(format: &str, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // It complains of lines that cannot be written where they cannot be written, and panics over that.
    let builder = tracing_subscriber::fmt().log_internal_errors(false);
    let builder = builder.with_env_filter(filter).with_writer(std::io::stderr);
    let _already_set = match format {
        "json" => builder.json().flatten_event(true).try_init(),
        _ => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}

/// Every metric of one daemon, in a registry of its own.
pub struct Metrics {
    registry: Registry,
    /// One at a time, or two would each add what the crates below have counted since.
    refreshing: Mutex<()>,
    /// What it holds and runs.
    pub engine: EngineMetrics,
    /// Answering clients.
    pub serving: ServingMetrics,
    /// Learning from them.
    pub learning: LearningMetrics,
    averages: AverageMetrics,
    imports: IntCounterVec,
    /// Who judges.
    pub rewards: RewardMetrics,
    /// What became of spans.
    pub traces: TraceMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let engine = EngineMetrics::register(&registry);
        let serving = ServingMetrics::register(&registry);
        serving.begin(http::ERROR_CODES);
        let learning = LearningMetrics::register(&registry);
        let averages = AverageMetrics::register(&registry);
        let imports = Registrar(&registry).counters(
            "honed_imports_total",
            "Model files from outside by what became of them.",
            &["outcome"],
        );
        ImportOutcome::ALL.iter().for_each(|outcome| drop(imports.with_label_values(&[outcome.as_str()])));
        let rewards = RewardMetrics::register(&registry);
        let traces = TraceMetrics::register(&registry);
        let labels = [("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into();
        let opts = prometheus::Opts::new("honed_build_info", "Constant 1, labelled with the version of the program.")
            .const_labels(labels);
        let build = IntGauge::with_opts(opts).expect("the name is valid");
        build.set(1);
        registry.register(Box::new(build)).expect("the name is new");
        Metrics { registry, refreshing: Mutex::new(()), engine, serving, learning, averages, imports, rewards, traces }
    }

    /// Takes over what the crates below count themselves.
    pub(crate) fn refresh(&self, services: &Services) {
        let _turn = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        self.engine.set(&services.engine);
        self.learning.set_log(&services.log.counters());
        if let Some(scorer) = &services.scorer {
            self.learning.set_scorer(&scorer.stats());
            self.rewards.set_version(&scorer.reward_version());
        }
        if let Some(seat) = &services.seat {
            self.rewards.set_seat(&seat.seated(), &seat.counters);
        }
        if let Some(importing) = &services.importing {
            for (outcome, n) in importing.importer.counts() {
                raise(&self.imports.with_label_values(&[outcome.as_str()]), n);
            }
        }
        match &services.learning {
            Some(learning) => {
                self.learning.set_learner(&learning.learner);
                learning.averages().iter().for_each(|board| self.averages.set(board));
            }
            None => self.learning.set_switches(&services.switch.counters().snapshot()),
        }
    }

    /// The text format of Prometheus.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("writing to memory cannot fail");
        text
    }
}
