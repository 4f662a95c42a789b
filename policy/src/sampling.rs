//! How a response is drawn from the policy.

use std::{fmt::Display, ops::RangeInclusive};

use crate::token::TokenId;

/// Stop texts that one request may name (OpenAI's limit).
pub const STOP_TEXTS_MAX: usize = 4;
/// Bytes of one stop text: the text held back while it may still be completed is bounded by it.
pub const STOP_TEXT_BYTES_MAX: usize = 4 * 1024;
/// Stop tokens that one request may name.
pub const STOP_TOKENS_MAX: usize = 128;
/// Tokens whose logits one request may shift.
pub const LOGIT_BIAS_MAX: usize = 1024;
/// Temperatures below this are greedy: the distribution is its best token alone, and logits divided by so little may leave f32.
/// Source: vLLM, `_SAMPLING_EPS`.
pub const GREEDY_BELOW: f32 = 1e-5;

/// A setting outside its range: which one, and the rule that it broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct OutOfRange {
    /// The setting, as clients name it.
    pub field: &'static str,
    /// What it must be and what it was: "must be between 0 and 2, got 3".
    pub rule: String,
}

/// Sampling settings of one request, already range-checked: [`SamplingParams::check`] is the only judge of the ranges.
///
/// Order of the stages, as in vLLM and Hugging Face: penalties and logit bias, temperature, top-k, top-p, min-p, draw.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Below [`GREEDY_BELOW`] greedy; else logits are divided by it. `0..=2`
    pub temperature: f32,
    /// Keep the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose mass reaches this. `(0, 1]`
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the best. `[0, 1]`
    pub min_p: f32,
    /// Subtracted once from the logit of every token that the response already holds. `-2..=2`
    pub presence_penalty: f32,
    /// Subtracted once per occurrence in the response. `-2..=2`
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or response. `(0, 10]`, 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens. Each in `-100..=100`.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Random stream of this request; `None` takes the next of the engine's.
    pub seed: Option<u64>,
    /// Tokens to draw at most; 0 only where a prompt is scored and nothing drawn.
    pub max_tokens: u32,
    /// Tokens before which no end token, stop token or stop text ends the response.
    pub min_tokens: u32,
    /// Texts that end the response; they are not part of it. At most 4.
    pub stop: Vec<String>,
    /// Tokens that end the response beside the model's own end tokens.
    pub stop_token_ids: Vec<TokenId>,
    /// Never draw an end token.
    pub ignore_eos: bool,
    /// A grammar said which tokens may come next. The engine fills it in, as it does the seed; nobody can ask for it.
    pub constrained: bool,
}

impl Default for SamplingParams {
    /// The model's own distribution: temperature 1, nothing truncated, 16 tokens (OpenAI's default).
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: None,
            max_tokens: 16,
            min_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            constrained: false,
        }
    }
}

impl SamplingParams {
    /// Whether the best token is taken and nothing drawn, so that there is no probability to learn from.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_BELOW
    }

    /// Judges every range, NaN included, against a vocabulary of `n_vocab` tokens.
    ///
    /// # Errors
    /// The first setting that is out of range, with its rule.
    pub fn check(&self, n_vocab: usize) -> Result<(), OutOfRange> {
        within("temperature", self.temperature, 0.0..=2.0)?;
        above_zero("top_p", self.top_p, 1.0)?;
        within("min_p", self.min_p, 0.0..=1.0)?;
        within("presence_penalty", self.presence_penalty, -2.0..=2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?;
        above_zero("repetition_penalty", self.repetition_penalty, 10.0)?;
        within("min_tokens", self.min_tokens, 0..=self.max_tokens)?;
        self.check_stops(n_vocab)?;
        self.check_logit_bias(n_vocab)
    }

    fn check_stops(&self, n_vocab: usize) -> Result<(), OutOfRange> {
        at_most("stop", self.stop.len(), STOP_TEXTS_MAX)?;
        for text in &self.stop {
            if text.is_empty() || text.len() > STOP_TEXT_BYTES_MAX {
                let rule = format!("must hold texts of 1 to {STOP_TEXT_BYTES_MAX} bytes, got {}", text.len());
                return Err(OutOfRange { field: "stop", rule });
            }
        }
        at_most("stop_token_ids", self.stop_token_ids.len(), STOP_TOKENS_MAX)?;
        self.stop_token_ids.iter().try_for_each(|&id| check_token("stop_token_ids", id, n_vocab))
    }

    fn check_logit_bias(&self, n_vocab: usize) -> Result<(), OutOfRange> {
        at_most("logit_bias", self.logit_bias.len(), LOGIT_BIAS_MAX)?;
        for &(id, bias) in &self.logit_bias {
            check_token("logit_bias", id, n_vocab)?;
            within("logit_bias", bias, -100.0..=100.0)?;
        }
        Ok(())
    }
}

/// Refuses a token that the vocabulary does not have.
///
/// # Errors
/// Names `field` and the id.
pub fn check_token(field: &'static str, id: TokenId, n_vocab: usize) -> Result<(), OutOfRange> {
    if (id.0 as usize) < n_vocab {
        return Ok(());
    }
    Err(OutOfRange { field, rule: format!("must hold token ids below {n_vocab}, got {}", id.0) })
}

/// Refuses a value outside a closed range; NaN lies in no range.
///
/// # Errors
/// Names `field`, the range and the value.
pub fn within<T: PartialOrd + Display>(
    field: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), OutOfRange> {
    if range.contains(&value) {
        return Ok(());
    }
    let rule = format!("must be between {} and {}, got {value}", range.start(), range.end());
    Err(OutOfRange { field, rule })
}

fn above_zero(field: &'static str, value: f32, max: f32) -> Result<(), OutOfRange> {
    if value > 0.0 && value <= max {
        return Ok(());
    }
    Err(OutOfRange { field, rule: format!("must be above 0 and at most {max}, got {value}") })
}

fn at_most(field: &'static str, n: usize, max: usize) -> Result<(), OutOfRange> {
    if n <= max {
        return Ok(());
    }
    Err(OutOfRange { field, rule: format!("must have at most {max} entries, got {n}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(change: impl FnOnce(&mut SamplingParams)) -> Option<&'static str> {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.check(100).err().map(|e| e.field)
    }

    #[test]
    fn defaults_are_in_range() {
        assert_eq!(broken(|_| ()), None);
    }

    #[test]
    fn every_setting_out_of_range_is_named() {
        assert_eq!(broken(|p| p.temperature = 2.1), Some("temperature"));
        assert_eq!(broken(|p| p.temperature = f32::NAN), Some("temperature"));
        assert_eq!(broken(|p| p.top_p = 0.0), Some("top_p"));
        assert_eq!(broken(|p| p.min_p = -0.1), Some("min_p"));
        assert_eq!(broken(|p| p.presence_penalty = -2.1), Some("presence_penalty"));
        assert_eq!(broken(|p| p.frequency_penalty = f32::INFINITY), Some("frequency_penalty"));
        assert_eq!(broken(|p| p.repetition_penalty = 0.0), Some("repetition_penalty"));
        assert_eq!(broken(|p| p.min_tokens = 17), Some("min_tokens"));
        assert_eq!(broken(|p| p.stop = vec![String::new()]), Some("stop"));
        assert_eq!(broken(|p| p.stop = vec!["x".into(); 5]), Some("stop"));
        assert_eq!(broken(|p| p.stop = vec!["x".repeat(STOP_TEXT_BYTES_MAX + 1)]), Some("stop"));
        assert_eq!(broken(|p| p.stop_token_ids = vec![TokenId(100)]), Some("stop_token_ids"));
        assert_eq!(broken(|p| p.logit_bias = vec![(TokenId(100), 0.0)]), Some("logit_bias"));
        assert_eq!(broken(|p| p.logit_bias = vec![(TokenId(1), 100.5)]), Some("logit_bias"));
    }

    #[test]
    fn the_edges_of_each_range_are_allowed() {
        assert_eq!(broken(|p| p.temperature = 0.0), None);
        assert_eq!(broken(|p| p.temperature = 2.0), None);
        assert_eq!(broken(|p| p.logit_bias = vec![(TokenId(99), -100.0)]), None);
        assert_eq!(broken(|p| p.min_tokens = 16), None);
    }
}
