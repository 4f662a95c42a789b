//! From a row of logits to a token, with the probability of the draw.
//!
//! Two log-probs are recorded for every token, because they answer different questions. The *raw* one (temperature 1, full
//! vocabulary) is what clients ask for and what a forward pass reproduces. The *behavior* one is the probability that the
//! token was really drawn with, after every stage and renormalised; it is the denominator of PPO's importance weights, and a
//! wrong one biases learning silently. `behavior = log-prob at the temperature − log kept mass` ties it to the mass that
//! truncation kept, which says how far a sample is from the untruncated policy.
//!
//! The stages run in an order that is an argument: the log of a draw depends on it, production uses [`ORDER`], and the
//! golden numbers hold other engines' orders too. Untruncated draws, the ones that PPO wants, never sort the row.

use std::collections::HashMap;

use rand::RngCore;

use crate::{
    engine::{
        softmax::{LogSoftmax, NotFinite, Weights, largest_logit},
        truncation::{Candidate, Kept, best_of_row},
    },
    log_prob::LogProb,
    rollout::SampledToken,
    sampling::SamplingParams,
    token::TokenId,
};

/// One step between logits and draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Divide the logits.
    Temperature,
    /// Keep the k most probable.
    TopK,
    /// Keep the smallest set, best first, whose mass reaches p.
    TopP,
    /// Keep what is at least `min_p` times as probable as the best.
    MinP,
}

/// The order of vLLM and Hugging Face. Penalties and logit bias always come first.
pub const ORDER: [Stage; 4] = [Stage::Temperature, Stage::TopK, Stage::TopP, Stage::MinP];

/// What the penalties look at.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Occurrences of each token in the response; 0 for those in the prompt only.
    counts: HashMap<TokenId, u32>,
}

impl History {
    /// A history that starts with the prompt; stays empty when `params` has no penalty.
    #[must_use]
    pub fn new(prompt: &[TokenId], params: &SamplingParams) -> History {
        let mut history = History::default();
        if has_penalty(params) {
            history.counts.extend(prompt.iter().map(|&id| (id, 0)));
        }
        history
    }

    /// Notes a drawn token.
    pub fn push(&mut self, id: TokenId, params: &SamplingParams) {
        if has_penalty(params) {
            *self.counts.entry(id).or_insert(0) += 1;
        }
    }
}

fn has_penalty(params: &SamplingParams) -> bool {
    params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0
        || params.repetition_penalty != 1.0
}

/// One draw: the settings, and what they depend on.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Range-checked settings.
    pub params: &'a SamplingParams,
    /// The order of the stages.
    pub order: &'a [Stage],
    /// Tokens of prompt and response.
    pub history: &'a History,
    /// Tokens that must not be drawn; counted as truncated mass.
    pub banned: &'a [TokenId],
}

/// Scratch space of one owner thread; holds nothing between draws.
#[derive(Debug, Default)]
pub struct Sampler {
    raw: Weights,
    tempered: Weights,
    adjusted: Vec<f32>,
    kept: Kept,
    kept_weights: Vec<f64>,
}

impl Sampler {
    /// Draws a token from `logits`, `[n_vocab]` f32.
    ///
    /// # Errors
    /// [`NotFinite`] when the row cannot be normalised, also after bans.
    pub fn draw(
        &mut self,
        logits: &[f32],
        draw: Draw<'_>,
        rng: &mut impl RngCore,
    ) -> Result<SampledToken, NotFinite> {
        let raw = self.raw.fill(logits, largest_logit(logits)?, 1.0);
        let (id, behavior, log_kept_mass) = if draw.params.temperature == 0.0 {
            (self.greedy(logits, draw)?, 0.0, 0.0)
        } else {
            self.stochastic(logits, draw, raw, uniform(rng))?
        };
        Ok(SampledToken {
            id: TokenId(id),
            log_prob: log_prob(raw.log_prob(logits[id as usize])),
            behavior: log_prob(behavior),
            log_kept_mass: log_prob(log_kept_mass).0,
        })
    }

    /// The probability that [`Sampler::draw`] gives each token, `[n_vocab]`; the slow twin that tests look at.
    ///
    /// # Errors
    /// [`NotFinite`] as in [`Sampler::draw`].
    pub fn distribution(&mut self, logits: &[f32], draw: Draw<'_>) -> Result<Vec<f64>, NotFinite> {
        let mut probabilities = vec![0.0; logits.len()];
        if draw.params.temperature == 0.0 {
            probabilities[self.greedy(logits, draw)? as usize] = 1.0;
            return Ok(probabilities);
        }
        self.adjust(logits, draw);
        let full = self.tempered.fill(
            &self.adjusted,
            largest_logit(&self.adjusted)?,
            draw.params.temperature,
        );
        self.ban(draw.banned)?;
        self.truncate(draw);
        if !self.kept.cut {
            self.kept.without(&self.adjusted, &[]);
        }
        let kept_mass = self.weigh_kept(full);
        for (candidate, weight) in self.kept.tokens.iter().zip(&self.kept_weights) {
            probabilities[candidate.id as usize] = weight / kept_mass;
        }
        Ok(probabilities)
    }

    fn greedy(&mut self, logits: &[f32], draw: Draw<'_>) -> Result<u32, NotFinite> {
        self.adjust(logits, draw);
        let max = self.ban(draw.banned)?;
        // The lowest id wins a tie, so that equal logits give equal bytes.
        let best = self
            .adjusted
            .iter()
            .position(|&logit| logit == max)
            .ok_or(NotFinite)?;
        Ok(index(best))
    }

    /// Token, behavior log-prob and log kept mass for the quantile `u`.
    fn stochastic(
        &mut self,
        logits: &[f32],
        draw: Draw<'_>,
        raw: LogSoftmax,
        u: f64,
    ) -> Result<(u32, f64, f64), NotFinite> {
        let params = draw.params;
        if !changes_logits(draw) && !truncates(params) {
            let full = match params.temperature {
                1.0 => return Ok(whole_row(&self.raw, raw, logits, u)),
                temperature => self.tempered.fill(logits, raw.max, temperature),
            };
            return Ok(whole_row(&self.tempered, full, logits, u));
        }
        self.adjust(logits, draw);
        let full = self.tempered.fill(
            &self.adjusted,
            largest_logit(&self.adjusted)?,
            params.temperature,
        );
        self.ban(draw.banned)?;
        self.truncate(draw);
        if !self.kept.cut {
            return Ok(whole_row(&self.tempered, full, &self.adjusted, u));
        }
        let kept_mass = self.weigh_kept(full);
        let mut rest = u * kept_mass;
        let mut drawn = self.kept.tokens[0];
        for (&candidate, &weight) in self.kept.tokens.iter().zip(&self.kept_weights) {
            if weight > 0.0 {
                drawn = candidate;
                rest -= weight;
                if rest < 0.0 {
                    break;
                }
            }
        }
        let log_kept_mass = kept_mass.ln();
        Ok((
            drawn.id,
            full.log_prob(drawn.logit) - log_kept_mass,
            log_kept_mass,
        ))
    }

    /// Probabilities of the kept tokens at the final temperature over the full row; returns their sum.
    fn weigh_kept(&mut self, full: LogSoftmax) -> f64 {
        self.kept_weights.clear();
        self.kept_weights.extend(
            self.kept
                .tokens
                .iter()
                .map(|candidate| full.log_prob(candidate.logit).exp()),
        );
        self.kept_weights.iter().sum()
    }

    /// Copies the row and applies penalties (repetition, frequency, presence) and the logit bias.
    fn adjust(&mut self, logits: &[f32], draw: Draw<'_>) {
        let params = draw.params;
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        for (&id, &count) in &draw.history.counts {
            let logit = &mut self.adjusted[id.0 as usize];
            *logit = if *logit > 0.0 {
                *logit / params.repetition_penalty
            } else {
                *logit * params.repetition_penalty
            };
            if count > 0 {
                *logit -= params.frequency_penalty * count as f32 + params.presence_penalty;
            }
        }
        for &(id, bias) in &params.logit_bias {
            self.adjusted[id.0 as usize] += bias;
        }
    }

    /// Takes the banned tokens out of the row; the best logit that is left.
    fn ban(&mut self, banned: &[TokenId]) -> Result<f32, NotFinite> {
        for id in banned {
            self.adjusted[id.0 as usize] = f32::NEG_INFINITY;
        }
        largest_logit(&self.adjusted)
    }

    /// Runs the truncating stages over the adjusted row.
    fn truncate(&mut self, draw: Draw<'_>) {
        let params = draw.params;
        let mut inverse_temperature = 1.0;
        self.kept.reset();
        if !draw.banned.is_empty() {
            self.kept.without(&self.adjusted, draw.banned);
        }
        for stage in draw.order {
            match stage {
                Stage::Temperature => inverse_temperature = 1.0 / f64::from(params.temperature),
                Stage::TopK if params.top_k > 0 => {
                    self.kept.best(&self.adjusted, params.top_k as usize)
                }
                Stage::TopP if params.top_p < 1.0 => {
                    self.kept
                        .mass(&self.adjusted, f64::from(params.top_p), inverse_temperature);
                }
                Stage::MinP if params.min_p > 0.0 => {
                    self.kept.near_best(
                        &self.adjusted,
                        f64::from(params.min_p),
                        inverse_temperature,
                    );
                }
                _ => {}
            }
        }
    }
}

/// Token, behavior log-prob and log kept mass of a draw from the untruncated row.
fn whole_row(weights: &Weights, full: LogSoftmax, logits: &[f32], u: f64) -> (u32, f64, f64) {
    let token = weights.quantile(u);
    (index(token), full.log_prob(logits[token]), 0.0)
}

fn changes_logits(draw: Draw<'_>) -> bool {
    has_penalty(draw.params) || !draw.params.logit_bias.is_empty() || !draw.banned.is_empty()
}

fn truncates(params: &SamplingParams) -> bool {
    params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0
}

/// Log-probabilities at temperature 1 of the `k` most probable tokens, best first; ties by the lower id.
///
/// # Errors
/// [`NotFinite`] when the row cannot be normalised.
pub fn top_log_probs(
    logits: &[f32],
    k: usize,
    scratch: &mut Sampler,
) -> Result<Vec<(TokenId, LogProb)>, NotFinite> {
    let softmax = scratch.raw.fill(logits, largest_logit(logits)?, 1.0);
    best_of_row(logits, k, &mut scratch.kept.tokens);
    let named = |candidate: &Candidate| {
        (
            TokenId(candidate.id),
            log_prob(softmax.log_prob(candidate.logit)),
        )
    };
    Ok(scratch.kept.tokens.iter().map(named).collect())
}

/// Log-probability of one token at temperature 1 over the full row.
///
/// # Errors
/// [`NotFinite`] when the row cannot be normalised.
pub fn raw_log_prob(
    logits: &[f32],
    id: TokenId,
    scratch: &mut Sampler,
) -> Result<LogProb, NotFinite> {
    let softmax = scratch.raw.fill(logits, largest_logit(logits)?, 1.0);
    Ok(log_prob(softmax.log_prob(logits[id.0 as usize])))
}

/// Uniform in `[0, 1)` with 53 bits.
fn uniform(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A probability is at most 1, whatever the last bit of a sum says.
#[allow(clippy::cast_possible_truncation)]
fn log_prob(nats: f64) -> LogProb {
    LogProb(nats.min(0.0) as f32)
}

fn index(i: usize) -> u32 {
    u32::try_from(i).expect("llama.cpp counts its vocabulary in i32")
}

#[cfg(test)]
mod tests;
