//! Metrics of the engine: what it holds and runs, as it counts itself.

use policy::engine::{Engine, EngineStats};
use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec, Registry};

use super::{
    foreign::{ForeignHistogram, step_sizes},
    registrar::{Registrar, raise},
};

/// Taken over from the engine whenever somebody looks.
pub struct EngineMetrics {
    running: IntGauge,
    waiting: IntGauge,
    version: IntGauge,
    residents: IntGauge,
    cache_config: IntGaugeVec,
    cache_usage: Gauge,
    iteration_tokens: ForeignHistogram,
    steps: IntCounter,
    step_tokens: IntCounter,
    rejected: IntCounter,
    failed: IntCounter,
}

impl EngineMetrics {
    pub(super) fn register(registry: &Registry) -> EngineMetrics {
        let r = Registrar(registry);
        EngineMetrics {
            running: r.gauge("honed_num_requests_running", "Sequences being decoded."),
            waiting: r.gauge("honed_num_requests_waiting", "Requests waiting for a slot."),
            version: r.gauge("honed_policy_version", "Version of the policy that serves."),
            residents: r.gauge("honed_policy_residents", "Versions of the policy in memory."),
            cache_config: r.gauges(
                "honed_cache_config_info",
                "Constant 1: how many sequences of how many tokens have room at once.",
                &["sequences", "context_tokens"],
            ),
            cache_usage: r.ratio(
                "honed_kv_cache_usage_ratio",
                "Share of the key-value caches that running sequences fill, 0 to 1.",
            ),
            iteration_tokens: ForeignHistogram::register(
                registry,
                "honed_iteration_tokens",
                "Tokens of one forward pass, prompts and decoding together.",
            ),
            steps: r.counter("honed_engine_steps_total", "Forward passes."),
            step_tokens: r.counter("honed_engine_step_tokens_total", "Tokens in all forward passes."),
            rejected: r.counter("honed_requests_rejected_total", "Requests refused because the queue was full."),
            failed: r.counter("honed_requests_failed_total", "Requests that ended in a failure of the engine."),
        }
    }

    /// How many sequences of how many tokens have room at once.
    pub(crate) fn set_cache_config(&self, sequences: usize, context_tokens: u32) {
        self.cache_config.with_label_values(&[sequences.to_string(), context_tokens.to_string()]).set(1);
    }

    /// Takes over the engine's gauges and counters.
    pub(super) fn set(&self, engine: &Engine) {
        let stats = engine.stats();
        self.iteration_tokens.set(&step_sizes(&stats));
        self.cache_usage.set(stats.cache_tokens as f64 / stats.cache_tokens_max.max(1) as f64);
        let EngineStats { running, waiting, steps, step_tokens, rejected_full, failed, .. } = stats;
        self.running.set(running as i64);
        self.waiting.set(waiting as i64);
        self.version.set(engine.live().0.cast_signed());
        self.residents.set(engine.residents().len() as i64);
        raise(&self.steps, steps);
        raise(&self.step_tokens, step_tokens);
        raise(&self.rejected, rejected_full);
        raise(&self.failed, failed);
    }
}
