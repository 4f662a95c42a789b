//! Which rollouts become episodes.

use policy::{FinishReason, PolicyVersion, TokenId, sequence_batch::Sequence};
use reward::ScoredRollout;

use super::held_out::is_held_out;
use crate::{
    rollout_log::{DropReason, obstacle},
    staleness::staleness_along,
};

/// One rollout as the trainer reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Where it stands among the rollouts of the round.
    pub index: usize,
    /// Prompt and response, the very ids that were drawn.
    pub sequence: Sequence,
    /// The temperature it was drawn at; policy, old and reference divide their logits by it.
    pub temperature: f32,
    /// Log of the probability that each response token was drawn with, nats.
    pub behavior: Vec<f64>,
    /// Log of the mass that truncation kept at each response token, nats; 0 where nothing was cut.
    pub log_kept_mass: Vec<f64>,
    /// As judged: normalised, not clipped.
    pub score: f64,
    /// It ended by itself: an end token, or a text that the client named as an end.
    pub terminated: bool,
    /// The daemon's own limit cut it off: the missing-EOS rule replaces its score. What the client's `max_tokens` cut off
    /// keeps the score of the text that there is: the cut was not the policy's doing.
    pub cut_by_daemon: bool,
    /// Publications between the version that drew it and the trainer's.
    pub staleness: u64,
}

impl Episode {
    /// Response tokens.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.behavior.len()
    }

    /// What the version that drew each response token gave it, nats: behavior, with the mass put back that truncation kept.
    pub fn drawn(&self) -> impl Iterator<Item = f64> + '_ {
        self.behavior.iter().zip(&self.log_kept_mass).map(|(behavior, mass)| behavior + mass)
    }
}

/// Whether the value model says what an answer that was cut off would still have earned: V after its last token takes the place
/// of its score. By the daemon's own limit: `ppo.missing_eos`; by the client's: `ppo.client_limit`.
pub(super) fn bootstraps(episode: &Episode, config: &config::Ppo) -> bool {
    let word = if episode.cut_by_daemon { &config.missing_eos } else { &config.client_limit };
    !episode.terminated && word == "bootstrap"
}

/// What an episode must fit.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// The trainer's version, then its ancestors as far back as `ppo.max_staleness` allows.
    pub lineage: &'a [PolicyVersion],
    /// Tokens that every model of the round knows.
    pub vocab_size: usize,
    /// Whether what the client's `max_tokens` cut off trains (`ppo.client_limit`).
    pub trains_client_limited: bool,
    /// Share of users, and of prompts without one, that only measure (`ppo.held_out_share`).
    pub held_out_share: f64,
}

/// The episodes of a round, and why the other rollouts are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admitted {
    /// In the order of the rollouts.
    pub episodes: Vec<Episode>,
    /// Index of the rollout and reason.
    pub dropped: Vec<(usize, DropReason)>,
}

/// Sorts rollouts into episodes and reasons: the last judge before training, whoever judged before.
#[must_use]
pub fn admit(rollouts: &[ScoredRollout], limits: Limits<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    for (index, scored) in rollouts.iter().enumerate() {
        match episode(index, scored, limits) {
            Ok(episode) => admitted.episodes.push(episode),
            Err(reason) => admitted.dropped.push((index, reason)),
        }
    }
    admitted
}

fn episode(index: usize, scored: &ScoredRollout, limits: Limits<'_>) -> Result<Episode, DropReason> {
    let rollout = scored.rollout();
    if let Some(reason) = obstacle(rollout) {
        return Err(reason);
    }
    if rollout.finish == FinishReason::ClientLimit && !limits.trains_client_limited {
        return Err(DropReason::ClientLimit);
    }
    // All of its tokens are one version's.
    let Some(staleness) = staleness_along(limits.lineage, &[rollout.version]) else {
        return Err(DropReason::Stale);
    };
    if rollout.prompt.is_empty() {
        return Err(DropReason::Empty);
    }
    let response: Vec<TokenId> = rollout.response.iter().map(|token| token.id).collect();
    let is_known = |token: &TokenId| (token.0 as usize) < limits.vocab_size;
    if !rollout.prompt.iter().chain(&response).all(is_known) {
        return Err(DropReason::TooLong);
    }
    // Last, so that what is held out differs from what trains in nothing else.
    if is_held_out(rollout, limits.held_out_share) {
        return Err(DropReason::HeldOut);
    }
    Ok(Episode {
        index,
        sequence: Sequence::new(&rollout.prompt, &response),
        temperature: rollout.sampling.temperature,
        behavior: rollout.response.iter().map(|token| f64::from(token.behavior.0)).collect(),
        log_kept_mass: rollout.response.iter().map(|token| f64::from(token.log_kept_mass)).collect(),
        score: scored.scored().score.0,
        terminated: matches!(rollout.finish, FinishReason::EndToken | FinishReason::Stop),
        cut_by_daemon: rollout.finish == FinishReason::DaemonLimit,
        staleness,
    })
}
