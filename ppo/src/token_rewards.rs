//! From one score per response to one reward per token.
//!
//! The reward model judges a whole response, so its score is paid at the last real token. Every token pays for leaving
//! the reference: −β·(ℓ − ℓ_ref), the k1 estimate, computed once per round and constant in the weights. Before that the
//! score is clipped, and then an answer that never ended gets what it deserves; in this order, or else the clip would
//! soften the punishment. What length costs ([`length_penalty`](crate::length_penalty)) is taken off last.
//!
//! `ℓ` is the *trainer's* log-prob at the start of the update, not the one recorded by the engine: both sides of the
//! difference must come from the same arithmetic, or quantisation noise becomes reward noise. `ppo.proximal = "log_linear"` takes
//! that noise into the bargain: there the trainer's is not known yet.

use crate::kl::{self, KlEstimator};

/// What an answer without an end token scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MissingEos {
    /// Its own score.
    Keep,
    /// This instead (Ziegler et al.: −1, whatever the reward model says).
    Replace(f64),
    /// Its own score minus this (TRL's `missing_eos_penalty`).
    Subtract(f64),
}

/// What happens to a score on its way to the reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreRule {
    /// Scores are clipped to ± this; `None`: they are taken as they are.
    pub clip: Option<f64>,
    /// The rule for answers without an end.
    pub missing_eos: MissingEos,
}

impl ScoreRule {
    /// The configured one.
    ///
    /// # Panics
    /// When the word is none of those that `config` admits.
    #[must_use]
    pub fn of(config: &config::Ppo) -> ScoreRule {
        let missing_eos = match config.missing_eos.as_str() {
            "replace" => MissingEos::Replace(config.missing_eos_score),
            "subtract" => MissingEos::Subtract(config.missing_eos_penalty),
            // With "bootstrap" the value model speaks in place of the score, and nobody asks.
            "keep" | "bootstrap" => MissingEos::Keep,
            other => panic!("config has checked the words of ppo.missing_eos, got {other}"),
        };
        // A clip to ± 0 would take every score away, and a knob of 0 means "off" throughout.
        ScoreRule { clip: (config.score_clip > 0.0).then_some(config.score_clip), missing_eos }
    }

    /// Clips, then applies the missing-EOS rule.
    ///
    /// Source: `lm-human-preferences` `train_policy.py`; TRL `ppo_trainer.py` (subtract).
    /// - `score`: from the reward source, normalised;
    /// - `terminated`: the response ended by itself.
    #[must_use]
    pub fn apply(&self, score: f64, terminated: bool) -> f64 {
        let clipped = self.clip.map_or(score, |c| score.clamp(-c, c));
        match self.missing_eos {
            _ if terminated => clipped,
            MissingEos::Keep => clipped,
            MissingEos::Replace(value) => value,
            MissingEos::Subtract(penalty) => clipped - penalty,
        }
    }
}

/// The reward of every token of one response.
///
/// `r_t = −β·(ℓ_t − ℓ_ref,t) + [t = last]·S`.
/// Source: Ziegler et al. (arXiv 1909.08593) equation 2, token by token as in `lm-human-preferences`
/// `train_policy.py:compute_rewards`.
/// - `log_probs`, `reference`: `[response_len]`, f64, nats, at the sampling temperature, t from the first response token
///   to the last (the end token where there is one);
/// - `mask`: `[response_len]`, true on response tokens;
/// - `score`: S, already through [`ScoreRule`] and less what its length costs;
/// - `kl_coef`: β, per nat.
///
/// Returns `[response_len]`, 0 where the mask is false; constant in the weights. Differs from TRL in that the score lies
/// on the last real token, not on the padding behind it.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn token_rewards(log_probs: &[f64], reference: &[f64], mask: &[bool], score: f64, kl_coef: f64) -> Vec<f64> {
    paid(&kl::per_token(KlEstimator::K1, log_probs, reference, mask), mask, score, kl_coef)
}

/// [`token_rewards`] with any estimate of the KL: `r_t = −β·kl_t + [t = last]·S`.
///
/// - `kl`: `[response_len]`, f64, nats, from [`kl::per_token`].
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn paid(kl: &[f64], mask: &[bool], score: f64, kl_coef: f64) -> Vec<f64> {
    assert_eq!(kl.len(), mask.len(), "one mask entry per token");
    let last = mask.iter().rposition(|keep| *keep);
    (0..mask.len())
        .map(|t| match mask[t] {
            false => 0.0,
            true => -kl_coef * kl[t] + if Some(t) == last { score } else { 0.0 },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{MissingEos, ScoreRule, token_rewards};

    #[test]
    fn without_divergence_only_the_last_token_is_paid() {
        let l = [-1.0, -0.5, -3.0, 0.0];
        assert_eq!(token_rewards(&l, &l, &[true, true, true, false], 2.5, 0.05), vec![0.0, 0.0, 2.5, 0.0]);
    }

    #[test]
    fn a_token_that_became_likelier_than_the_reference_pays() {
        let rewards = token_rewards(&[-1.0, -2.0], &[-2.0, -1.0], &[true, true], 0.0, 0.1);
        assert_eq!(rewards, vec![-0.1, 0.1]);
    }

    #[test]
    fn the_clip_comes_before_the_missing_end() {
        let rule = ScoreRule { clip: Some(1.0), missing_eos: MissingEos::Subtract(1.5) };
        assert_eq!(rule.apply(9.0, true), 1.0);
        assert_eq!(rule.apply(9.0, false), -0.5);
        let replace = ScoreRule { clip: Some(0.5), missing_eos: MissingEos::Replace(-1.0) };
        assert_eq!(replace.apply(9.0, false), -1.0, "the replacement is not clipped");
    }
}
