//! Feeds the serving metrics from one request's events.
//!
//! Times are the engine's: an event may be read long after it was sent, by a client that reads slowly or has left.

use std::{collections::HashMap, sync::Arc, time::Instant};

use policy::{
    FinishReason,
    engine::{Event, Finished},
};

use super::generation::Job;
use crate::telemetry::Metrics;

/// Knows when a request came and when each of its choices last got a token.
pub(crate) struct TokenClock {
    metrics: Arc<Metrics>,
    /// At its handler.
    arrived: Instant,
    /// To the engine.
    submitted: Instant,
    last_token: HashMap<u32, Instant>,
    /// Drawn tokens of the longest choice that has finished.
    longest: Option<usize>,
}

impl TokenClock {
    /// Starts once the engine has admitted the request.
    pub(crate) fn start(metrics: Arc<Metrics>, job: &Job, submitted: Instant) -> TokenClock {
        let serving = &metrics.serving;
        serving.params_n.observe(f64::from(job.n));
        serving.params_max_tokens.observe(f64::from(job.sampling.max_tokens));
        job.prompts.iter().for_each(|prompt| serving.request_prompt_tokens.observe(prompt.len() as f64));
        TokenClock { metrics, arrived: job.arrived, submitted, last_token: HashMap::new(), longest: None }
    }

    /// Takes note of one event.
    pub(crate) fn observe(&mut self, event: &Event) {
        match event {
            Event::Token { index, began, at, .. } => {
                let serving = &self.metrics.serving;
                match self.last_token.insert(*index, *at) {
                    Some(last) => serving.inter_token_s.observe(seconds(last, *at)),
                    None => {
                        serving.first_token_s.observe(seconds(self.arrived, *at));
                        serving.queue_s.observe(seconds(self.submitted, *began));
                        serving.prefill_s.observe(seconds(*began, *at));
                    }
                }
            }
            Event::Finished(finished) if finished.rollout.finish != FinishReason::Cancelled => self.finished(finished),
            Event::Finished(_) | Event::Prompt { .. } | Event::Failed(_) => {}
        }
    }

    fn finished(&mut self, finished: &Finished) {
        let serving = &self.metrics.serving;
        let n_tokens = finished.rollout.response.len();
        serving.request_generation_tokens.observe(n_tokens as f64);
        self.longest = self.longest.max(Some(n_tokens));
        serving.request_s.observe(seconds(self.arrived, finished.at));
        let decode_s = finished.timings.decode.as_secs_f64();
        serving.decode_s.observe(decode_s);
        serving.inference_s.observe(finished.timings.prefill.as_secs_f64() + decode_s);
        if n_tokens > 1 {
            serving.time_per_token_s.observe(decode_s / (n_tokens - 1) as f64);
        }
    }
}

impl Drop for TokenClock {
    fn drop(&mut self) {
        if let Some(longest) = self.longest {
            self.metrics.serving.longest_generation_tokens.observe(longest as f64);
        }
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use policy::{LogProb, SampledToken, TokenId};

    use super::*;

    /// Goal: times are those of the engine, from the request's arrival. Method: a request that came 9 s ago, and two tokens
    /// that were drawn 5 and 4 s ago and are read now.
    #[test]
    fn what_is_read_late_was_not_drawn_late() {
        let ago = |s| Instant::now().checked_sub(Duration::from_secs(s)).expect("the machine runs for longer");
        let metrics = Arc::new(Metrics::new());
        let (arrived, submitted) = (ago(9), ago(8));
        let mut clock =
            TokenClock { metrics: Arc::clone(&metrics), arrived, submitted, last_token: HashMap::new(), longest: None };
        let probability = LogProb(-1.0);
        let token = SampledToken { id: TokenId(3), log_prob: probability, behavior: probability, log_kept_mass: 0.0 };
        for at in [ago(5), ago(4)] {
            let (text, top) = (String::new(), Vec::new());
            clock.observe(&Event::Token { index: 0, token, text, top, began: ago(6), at });
        }
        let serving = &metrics.serving;
        let sums = [&serving.first_token_s, &serving.queue_s, &serving.prefill_s, &serving.inter_token_s];
        for (histogram, expected) in sums.into_iter().zip([4.0, 2.0, 1.0, 1.0]) {
            assert_eq!(histogram.get_sample_count(), 1);
            assert!((histogram.get_sample_sum() - expected).abs() < 0.5, "{} s", histogram.get_sample_sum());
        }
    }
}
