//! Metrics of serving: vLLM's set under our prefix, with its buckets and finer ones below 10 ms.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};

use super::registrar::Registrar;

/// vLLM's buckets of time to first token, seconds.
const FIRST_TOKEN_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
/// vLLM's buckets of inter-token latency, and what a tiny model needs below them, seconds.
const INTER_TOKEN_S: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0,
];
/// vLLM's buckets of whole requests and their phases, and finer ones below, seconds.
const REQUEST_S: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
];
/// Counts of tokens: 1-2-5.
const TOKENS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];
/// Choices per prompt.
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// What happens between clients and the engine.
pub struct ServingMetrics {
    /// Seconds from the request's arrival to its first token.
    pub first_token_s: Histogram,
    /// Seconds between two tokens of one choice.
    pub inter_token_s: Histogram,
    /// Seconds from arrival to the last token.
    pub request_s: Histogram,
    /// Seconds from submission to the engine to a slot.
    pub queue_s: Histogram,
    /// Seconds from a slot to the first token.
    pub prefill_s: Histogram,
    /// Seconds from the first token to the last.
    pub decode_s: Histogram,
    /// Seconds from a slot to the last token: prefill and decode.
    pub inference_s: Histogram,
    /// Mean seconds of a choice's tokens after its first.
    pub time_per_token_s: Histogram,
    /// Prompt tokens per prompt.
    pub request_prompt_tokens: Histogram,
    /// Drawn tokens per choice.
    pub request_generation_tokens: Histogram,
    /// Drawn tokens of a request's longest choice.
    pub longest_generation_tokens: Histogram,
    /// `n` of requests.
    pub params_n: Histogram,
    /// `max_tokens` of requests.
    pub params_max_tokens: Histogram,
    /// Requests by route pattern, method and status.
    pub http_requests: IntCounterVec,
    /// Seconds from a request's head to its answer's, by route pattern.
    pub http_s: HistogramVec,
    /// Requests whose answer has not begun.
    pub http_in_flight: IntGauge,
    /// Errors by code, also those inside streams.
    pub errors: IntCounterVec,
    /// Clients that left before their answer was complete.
    pub disconnects: IntCounter,
}

impl ServingMetrics {
    pub(super) fn register(registry: &Registry) -> ServingMetrics {
        let r = Registrar(registry);
        let gap = |name, help| r.histogram(name, help, INTER_TOKEN_S);
        let phase = |name, help| r.histogram(name, help, REQUEST_S);
        let tokens = |name, help| r.histogram(name, help, TOKENS);
        ServingMetrics {
            first_token_s: r.histogram(
                "honed_time_to_first_token_seconds",
                "From arrival to the first token of each choice, counted when it is drawn.",
                FIRST_TOKEN_S,
            ),
            inter_token_s: gap(
                "honed_inter_token_latency_seconds",
                "Between two tokens of one choice, as the engine draws them.",
            ),
            request_s: phase(
                "honed_e2e_request_latency_seconds",
                "From arrival to the last token of each choice that was not aborted.",
            ),
            queue_s: phase(
                "honed_request_queue_time_seconds",
                "From submission to a slot, counted at the first token of each choice.",
            ),
            prefill_s: phase(
                "honed_request_prefill_time_seconds",
                "From a slot to the first token, counted at the first token of each choice.",
            ),
            decode_s: phase(
                "honed_request_decode_time_seconds",
                "From the first token to the last of each choice that was not aborted.",
            ),
            inference_s: phase(
                "honed_request_inference_time_seconds",
                "From a slot to the last token of each choice that was not aborted: prefill and decode.",
            ),
            time_per_token_s: gap(
                "honed_request_time_per_output_token_seconds",
                "Mean time of the tokens after its first of each choice that was not aborted.",
            ),
            request_prompt_tokens: tokens("honed_request_prompt_tokens", "Prompt tokens of each admitted prompt."),
            request_generation_tokens: tokens(
                "honed_request_generation_tokens",
                "Drawn tokens of each choice that was not aborted.",
            ),
            longest_generation_tokens: tokens(
                "honed_request_max_num_generation_tokens",
                "Drawn tokens of the longest choice of each request, of those that were not aborted.",
            ),
            params_n: r.histogram(
                "honed_request_params_n",
                "Choices per prompt that each admitted request asked for.",
                CHOICES,
            ),
            params_max_tokens: tokens(
                "honed_request_params_max_tokens",
                "Most tokens per choice that each admitted request asked for.",
            ),
            http_requests: r.counters("honed_http_requests_total", "HTTP requests.", &["handler", "method", "status"]),
            http_s: r.histograms(
                "honed_http_request_duration_seconds",
                "From a request's head to its answer's; of a stream to its first byte.",
                &["handler"],
                REQUEST_S,
            ),
            http_in_flight: r.gauge("honed_http_requests_in_flight", "HTTP requests whose answer has not begun."),
            errors: r.counters("honed_errors_total", "Errors by code, also those sent inside streams.", &["code"]),
            disconnects: r.counter("honed_disconnects_total", "Clients that left before their answer was complete."),
        }
    }

    /// Shows every label that is known beforehand at zero: a rate needs a first sample, and an alert a series.
    pub(super) fn begin(&self, error_codes: &[&str]) {
        for code in error_codes {
            self.errors.with_label_values(&[code]);
        }
    }
}
