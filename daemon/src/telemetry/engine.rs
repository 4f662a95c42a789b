//! Metrics of the engine: what it holds and runs, as it counts itself.

use policy::{
    FinishReason,
    engine::{Engine, EngineStats, FINISH_REASONS},
};
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{
    foreign::{ForeignHistogram, step_sizes},
    registrar::{Registrar, raise},
};

/// Taken over from the engine whenever somebody looks: exact, whoever left before the end, and with the daemon's own work (the
/// gate's trials) among it.
pub struct EngineMetrics {
    prompt_tokens: IntCounter,
    cached_prompt_tokens: IntCounter,
    prefix_queries: IntCounter,
    generated_tokens: IntCounter,
    finished: IntCounterVec,
    running: IntGauge,
    waiting: IntGauge,
    version: IntGauge,
    residents: IntGauge,
    cache_config: IntGaugeVec,
    cache_usage: Gauge,
    iteration_tokens: ForeignHistogram,
    steps: IntCounter,
    step_tokens: IntCounter,
    moves: IntCounter,
    rejected: IntCounter,
    failed: IntCounter,
}

impl EngineMetrics {
    pub(super) fn register(registry: &Registry) -> EngineMetrics {
        let r = Registrar(registry);
        let finished = r.counters(
            "honed_request_success_total",
            "Choices that ended by reason, those of the gate's trials too; abort: the client left, the time was up, or the daemon \
             stopped.",
            &["finished_reason"],
        );
        FINISH_REASONS.iter().for_each(|&reason| drop(finished.with_label_values(&[finish_word(reason)])));
        EngineMetrics {
            prompt_tokens: r.counter(
                "honed_prompt_tokens_total",
                "Prompt tokens of choices that got a slot, those of the gate's trials too.",
            ),
            cached_prompt_tokens: r.counter(
                "honed_prefix_cache_hits_total",
                "Prompt tokens of choices that got a slot which an earlier one had computed.",
            ),
            prefix_queries: r.counter(
                "honed_prefix_cache_queries_total",
                "Prompt tokens of choices that got a slot: each was looked for among those computed before.",
            ),
            generated_tokens: r
                .counter("honed_generation_tokens_total", "Tokens drawn, those of the gate's trials too."),
            finished,
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
            moves: r.counter(
                "honed_sequence_moves_total",
                "Sequences that moved, so that a gap between them would not cost a pass of its own.",
            ),
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
        raise(&self.prompt_tokens, stats.prompt_tokens);
        raise(&self.prefix_queries, stats.prompt_tokens);
        raise(&self.cached_prompt_tokens, stats.cached_prompt_tokens);
        raise(&self.generated_tokens, stats.generated_tokens);
        self.set_finished(&stats.finished);
        let EngineStats { running, waiting, steps, step_tokens, moves, rejected_full, failed, .. } = stats;
        self.running.set(running as i64);
        self.waiting.set(waiting as i64);
        self.version.set(engine.live().0.cast_signed());
        self.residents.set(engine.residents().len() as i64);
        raise(&self.steps, steps);
        raise(&self.step_tokens, step_tokens);
        raise(&self.moves, moves);
        raise(&self.rejected, rejected_full);
        raise(&self.failed, failed);
    }

    /// Several of the engine's reasons share a word.
    fn set_finished(&self, finished: &[u64; FINISH_REASONS.len()]) {
        for word in FINISH_REASONS.map(finish_word) {
            let of_word = FINISH_REASONS.iter().zip(finished).filter(|(reason, _)| finish_word(**reason) == word);
            raise(&self.finished.with_label_values(&[word]), of_word.map(|(_, n)| n).sum());
        }
    }
}

/// OpenAI's word; `abort` is vLLM's for a response that its client or the daemon ended.
pub(crate) fn finish_word(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::EndToken | FinishReason::Stop => "stop",
        FinishReason::ClientLimit | FinishReason::DaemonLimit => "length",
        FinishReason::Cancelled => "abort",
    }
}
