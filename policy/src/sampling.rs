//! How a response is drawn from the policy.

use crate::token::TokenId;

/// Sampling settings of one request, already range-checked: [`SamplingParams::check`] is the only judge of the ranges.
///
/// Order of the stages, as in vLLM and Hugging Face: penalties and logit bias, temperature, top-k, top-p, min-p, draw.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; else logits are divided by it. `0..=2`
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
    /// Tokens to draw at most.
    pub max_tokens: u32,
    /// Tokens before which no end token is drawn.
    pub min_tokens: u32,
    /// Texts that end the response; they are not part of it. At most 4.
    pub stop: Vec<String>,
    /// Tokens that end the response beside the model's own end tokens.
    pub stop_token_ids: Vec<TokenId>,
    /// Never draw an end token.
    pub ignore_eos: bool,
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
        }
    }
}
