//! Feeds the serving metrics from one request's events.

use std::{collections::HashMap, time::Instant};

use policy::{FinishReason, engine::Event};

use super::{context::Context, generation::Job};

/// Knows when a request arrived and when each of its choices last got a token.
pub(crate) struct TokenClock {
    context: Context,
    arrived: Instant,
    last_token: HashMap<u32, Instant>,
    /// Drawn tokens of the longest choice that has finished.
    longest: Option<usize>,
}

impl TokenClock {
    /// Starts with the request.
    pub(crate) fn start(context: Context, job: &Job) -> TokenClock {
        let serving = &context.metrics().serving;
        serving.params_n.observe(f64::from(job.n));
        serving.params_max_tokens.observe(f64::from(job.sampling.max_tokens));
        TokenClock { context: context.clone(), arrived: Instant::now(), last_token: HashMap::new(), longest: None }
    }

    /// Takes note of one event.
    pub(crate) fn observe(&mut self, event: &Event) {
        let serving = &self.context.metrics().serving;
        match event {
            Event::Token { index, .. } => {
                let now = Instant::now();
                if let Some(last) = self.last_token.insert(*index, now) {
                    serving.inter_token_s.observe((now - last).as_secs_f64());
                }
                serving.generation_tokens.inc();
            }
            Event::Finished(finished) => {
                let rollout = &finished.rollout;
                serving.finished.with_label_values(&[finish_reason(rollout.finish)]).inc();
                let n_tokens = rollout.response.len();
                serving.request_generation_tokens.observe(n_tokens as f64);
                self.longest = self.longest.max(Some(n_tokens));
                let cached = u64::from(finished.cached_tokens);
                let prompt = rollout.prompt.len() as u64;
                serving.prefix_queries.inc_by(prompt);
                serving.prefix_hits.inc_by(cached.min(prompt));
                serving.prompt_tokens.inc_by(prompt);
                serving.request_prompt_tokens.observe(prompt as f64);
                serving.request_s.observe(self.arrived.elapsed().as_secs_f64());
                serving.first_token_s.observe(finished.timings.first_token.as_secs_f64());
                serving.queue_s.observe(finished.timings.queued.as_secs_f64());
                serving.prefill_s.observe(finished.timings.prefill.as_secs_f64());
                let decode_s = finished.timings.decode.as_secs_f64();
                serving.decode_s.observe(decode_s);
                serving.inference_s.observe(finished.timings.prefill.as_secs_f64() + decode_s);
                if n_tokens > 1 {
                    serving.time_per_token_s.observe(decode_s / (n_tokens - 1) as f64);
                }
            }
            Event::Prompt { .. } | Event::Failed(_) => {}
        }
    }
}

impl Drop for TokenClock {
    fn drop(&mut self) {
        if let Some(longest) = self.longest {
            self.context.metrics().serving.longest_generation_tokens.observe(longest as f64);
        }
    }
}

/// OpenAI's word; `abort` is vLLM's for a response that its client or the daemon ended.
pub(crate) fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::EndToken | FinishReason::Stop => "stop",
        FinishReason::ClientLimit | FinishReason::DaemonLimit => "length",
        FinishReason::Cancelled => "abort",
    }
}
