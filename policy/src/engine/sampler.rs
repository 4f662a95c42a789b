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

use rand::RngCore;

use crate::{
    engine::{
        history::has_penalty,
        softmax::{LogSoftmax, NotFinite, Weights, largest_logit},
        truncation::Kept,
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

pub use self::report::{raw_log_prob, scored_token, top_log_probs};
pub use crate::engine::history::History;

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
    /// The only tokens that may be drawn, one bit a token, lowest first; what is not among them counts as banned.
    pub allowed: Option<&'a [u32]>,
}

/// Scratch space of one owner thread; holds nothing between draws.
#[derive(Debug, Default)]
pub struct Sampler {
    raw: Weights,
    tempered: Weights,
    adjusted: Vec<f32>,
    kept: Kept,
}

impl Sampler {
    /// Draws a token from `logits`, `[n_vocab]` f32.
    ///
    /// # Errors
    /// `NotFinite` when the row cannot be normalised, also after bans.
    pub fn draw(&mut self, logits: &[f32], draw: Draw<'_>, rng: &mut impl RngCore) -> Result<SampledToken, NotFinite> {
        let raw = self.raw.fill(logits, largest_logit(logits)?, 1.0);
        let (id, behavior, log_kept_mass) = if draw.params.is_greedy() {
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
    /// `NotFinite` as in [`Sampler::draw`].
    pub fn distribution(&mut self, logits: &[f32], draw: Draw<'_>) -> Result<Vec<f64>, NotFinite> {
        let mut probabilities = vec![0.0; logits.len()];
        if draw.params.is_greedy() {
            probabilities[self.greedy(logits, draw)? as usize] = 1.0;
            return Ok(probabilities);
        }
        self.prepare(logits, draw)?;
        if !self.kept.cut {
            self.kept.all(&self.adjusted);
        }
        let mass = self.kept_mass();
        for candidate in &self.kept.tokens {
            let i = candidate.id as usize;
            probabilities[i] = f64::from(self.tempered.weights[i]) / mass;
        }
        Ok(probabilities)
    }

    fn greedy(&mut self, logits: &[f32], draw: Draw<'_>) -> Result<u32, NotFinite> {
        self.adjust(logits, draw);
        let max = self.ban(draw)?;
        // The lowest id wins a tie, so that equal logits give equal bytes.
        let best = self.adjusted.iter().position(|&logit| logit == max).ok_or(NotFinite)?;
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
        if !shifts_logits(params) && !truncates(params) && draw.allowed.is_none() {
            let (weights, full) = match params.temperature {
                1.0 => (&mut self.raw, raw),
                temperature => {
                    let full = self.tempered.fill(logits, raw.max, temperature);
                    (&mut self.tempered, full)
                }
            };
            if let Some(log_kept_mass) = weights.remove(draw.banned) {
                let token = weights.quantile(u);
                return Ok((index(token), full.log_prob(logits[token]) - log_kept_mass, log_kept_mass));
            }
        }
        let (full, left) = self.prepare(logits, draw)?;
        let (id, mass) = if self.kept.cut {
            let mass = self.kept_mass();
            (self.kept_quantile(u * mass), mass)
        } else {
            (index(self.tempered.quantile(u)), self.tempered.total)
        };
        let in_set = LogSoftmax { log_sum: mass.ln(), ..left };
        // `mass` is relative to the best token that is left; `full.log_prob` says what that one weighs in the whole row.
        let log_kept_mass = in_set.log_sum + full.log_prob(left.max);
        Ok((id, in_set.log_prob(self.adjusted[id as usize]), log_kept_mass))
    }

    /// Fills `adjusted`, its weights without the banned tokens, and the kept set. Returns the normalisers of the whole row
    /// and of what bans left of it.
    fn prepare(&mut self, logits: &[f32], draw: Draw<'_>) -> Result<(LogSoftmax, LogSoftmax), NotFinite> {
        self.adjust(logits, draw);
        let temperature = draw.params.temperature;
        let full = self.tempered.fill(&self.adjusted, largest_logit(&self.adjusted)?, temperature);
        let mut left = full;
        if !draw.banned.is_empty() || draw.allowed.is_some() {
            // Filled anew: a banned token that held nearly all mass would leave weights that underflow.
            let max = self.ban(draw)?;
            left = self.tempered.fill(&self.adjusted, max, temperature);
        }
        self.truncate(draw);
        Ok((full, left))
    }

    /// Weight of the kept set, in the units of `tempered`.
    fn kept_mass(&self) -> f64 {
        self.kept.tokens.iter().map(|candidate| f64::from(self.tempered.weights[candidate.id as usize])).sum()
    }

    /// The kept token at which the weights, added up, pass `mass`.
    fn kept_quantile(&self, mass: f64) -> u32 {
        let mut rest = mass;
        let mut drawn = self.kept.tokens[0].id;
        for candidate in &self.kept.tokens {
            let weight = f64::from(self.tempered.weights[candidate.id as usize]);
            if weight > 0.0 {
                drawn = candidate.id;
                rest -= weight;
                if rest < 0.0 {
                    break;
                }
            }
        }
        drawn
    }

    /// Copies the row and applies penalties (repetition, frequency, presence) and the logit bias.
    fn adjust(&mut self, logits: &[f32], draw: Draw<'_>) {
        let params = draw.params;
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        for (&id, &count) in &draw.history.counts {
            let logit = &mut self.adjusted[id.0 as usize];
            *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
            if count > 0 {
                *logit -= params.frequency_penalty * count as f32 + params.presence_penalty;
            }
        }
        for &(id, bias) in &params.logit_bias {
            self.adjusted[id.0 as usize] += bias;
        }
    }

    /// Takes the banned tokens out of the row; the best logit that is left.
    fn ban(&mut self, draw: Draw<'_>) -> Result<f32, NotFinite> {
        for id in draw.banned {
            self.adjusted[id.0 as usize] = f32::NEG_INFINITY;
        }
        if let Some(allowed) = draw.allowed {
            for (i, logit) in self.adjusted.iter_mut().enumerate() {
                let is_allowed = allowed.get(i / 32).is_some_and(|bits| bits >> (i % 32) & 1 == 1);
                *logit = if is_allowed { *logit } else { f32::NEG_INFINITY };
            }
        }
        largest_logit(&self.adjusted)
    }

    /// Runs the truncating stages over the adjusted row.
    fn truncate(&mut self, draw: Draw<'_>) {
        let params = draw.params;
        let mut inverse_temperature = 1.0;
        self.kept.reset();
        for stage in draw.order {
            match stage {
                Stage::Temperature => inverse_temperature = 1.0 / f64::from(params.temperature),
                Stage::TopK if params.top_k > 0 => self.kept.best(&self.adjusted, params.top_k as usize),
                Stage::TopP if params.top_p < 1.0 => {
                    let p = f64::from(params.top_p);
                    self.kept.mass(&self.adjusted, p, inverse_temperature);
                }
                Stage::MinP if params.min_p > 0.0 => {
                    self.kept.near_best(&self.adjusted, f64::from(params.min_p), inverse_temperature);
                }
                _ => {}
            }
        }
    }
}

fn shifts_logits(params: &SamplingParams) -> bool {
    has_penalty(params) || !params.logit_bias.is_empty()
}

fn truncates(params: &SamplingParams) -> bool {
    params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0
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

mod report;
#[cfg(test)]
mod tests;
