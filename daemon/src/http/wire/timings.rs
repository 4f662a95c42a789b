//! Where the time of an answer went.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

/// llama-server's `timings`, of all prompts and choices of a request together: what runs side by side is counted as if it ran
/// one after another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Timings {
    /// Prompt tokens that were known before.
    cache_n: u64,
    /// Prompt tokens that were computed.
    prompt_n: u64,
    /// From a slot to the first token, milliseconds.
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    /// Tokens drawn.
    predicted_n: u64,
    /// From the first token to the last, milliseconds.
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
}

impl Timings {
    /// Of so many tokens of prompts, known and computed, and so many drawn.
    pub(crate) fn new(cached: u64, (computed, prefill): (u64, Duration), (drawn, decode): (u64, Duration)) -> Timings {
        let (prompt, predicted) = (Pace::of(computed, prefill), Pace::of(drawn, decode));
        Timings {
            cache_n: cached,
            prompt_n: computed,
            prompt_ms: prompt.ms,
            prompt_per_token_ms: prompt.per_token_ms,
            prompt_per_second: prompt.per_second,
            predicted_n: drawn,
            predicted_ms: predicted.ms,
            predicted_per_token_ms: predicted.per_token_ms,
            predicted_per_second: predicted.per_second,
        }
    }
}

/// How fast tokens went.
struct Pace {
    ms: f64,
    per_token_ms: f64,
    per_second: f64,
}

impl Pace {
    /// No token has no pace, and a single drawn one has no time: as at llama-server it is given a microsecond.
    fn of(n_tokens: u64, time: Duration) -> Pace {
        let ms = time.max(Duration::from_micros(1)).as_secs_f64() * 1e3;
        let n = n_tokens as f64;
        Pace { ms, per_token_ms: if n_tokens == 0 { 0.0 } else { ms / n }, per_second: n / ms * 1e3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_follow_from_counts_and_times_and_are_always_numbers() {
        let ms = Duration::from_millis;
        let t = Timings::new(3, (10, ms(20)), (5, ms(50)));
        assert_eq!((t.cache_n, t.prompt_n, t.predicted_n), (3, 10, 5));
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(t.prompt_ms, 20.0) && near(t.prompt_per_token_ms, 2.0) && near(t.prompt_per_second, 500.0));
        assert!(
            near(t.predicted_ms, 50.0) && near(t.predicted_per_token_ms, 10.0) && near(t.predicted_per_second, 100.0)
        );
        let none = Timings::new(3, (0, Duration::ZERO), (1, Duration::ZERO));
        assert!(near(none.prompt_per_token_ms, 0.0) && near(none.prompt_per_second, 0.0), "{none:?}");
        assert!(none.predicted_per_second.is_finite(), "{none:?}");
    }
}
