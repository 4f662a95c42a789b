//! Which exchanges may train at all, judged once, when they are logged.
//!
//! PPO needs to know the probability that each token was drawn with, and that the ending was the policy's own doing
//! (RLHF notes, section 5.5, classes A to C):
//!
//! * *exact*: not greedy, nothing truncated, nothing penalised. Trains.
//! * *truncated*: top-k, top-p or min-p cut something, but every token kept at least nine tenths of the mass. Trains with
//!   the recorded behavior log-prob in its importance weight; the small bias of the support is accepted.
//!   So do the bans of `min_tokens` and `ignore_eos`: what they take from the end tokens is mass cut like any other.
//! * anything else (greedy, penalised, biased, or held to a grammar, which makes another policy of it however little it cuts)
//!   is logged, exported and open to feedback, and is `dropped` with its reason from the first row on, so
//!   that no scorer spends time on it and no learner has to look at it again.

use policy::{FinishReason, Rollout};

use super::state::DropReason;
use crate::off_policy::is_altered;

/// Smallest mass that truncation may keep at any token of a rollout that trains. Source: RLHF notes 5.5, class B.
pub const KEPT_MASS_MIN: f32 = 0.9;

/// Why this rollout may not train, or `None` when it may.
///
/// What the client's `max_tokens` cut off passes here; `ppo.client_limit` decides about it when it is claimed.
/// A response that ended at one of the client's stop texts counts as ended: the policy wrote the text that ends it.
pub fn obstacle(rollout: &Rollout) -> Option<DropReason> {
    let sampling = &rollout.sampling;
    // Before the next one: a client that leaves early leaves empty responses too.
    match rollout.finish {
        FinishReason::Cancelled => return Some(DropReason::Cancelled),
        FinishReason::EndToken | FinishReason::Stop | FinishReason::ClientLimit | FinishReason::DaemonLimit => {}
    }
    if rollout.response.is_empty() {
        return Some(DropReason::Empty);
    }
    if sampling.is_greedy() {
        return Some(DropReason::Greedy);
    }
    if is_altered(sampling) {
        return Some(DropReason::Altered);
    }
    let finite = |token: &policy::SampledToken| {
        token.log_prob.0.is_finite() && token.behavior.0.is_finite() && token.log_kept_mass.is_finite()
    };
    if !rollout.response.iter().all(finite) {
        return Some(DropReason::NonFinite);
    }
    if rollout.response.iter().any(|token| token.log_kept_mass < KEPT_MASS_MIN.ln()) {
        return Some(DropReason::TruncatedMass);
    }
    None
}
