//! One update round: from scored rollouts to better weights.
//!
//! The round works on the models in memory and on nothing else: no file, no database, no clock but for statistics. Its
//! caller owns the rest: it claims the rollouts, persists what a round changes (weights, moments, β), publishes. So a round
//! that fails, is interrupted, or runs away leaves the models *bit for bit* as they were.
//!
//! ```text
//! admit        which rollouts are episodes, and why the others are not
//! collect      old, reference and value passes; token rewards; GAE; importance weights; whitening
//! for each epoch, for each minibatch:
//!     policy   Σ micro-batches of the clipped loss over the *minibatch's* tokens, pretraining text, clip the norm, Adam
//!     value    the same for the value loss, with its own norm and its own Adam
//! settle       β follows the KL; fates of the rollouts; statistics
//! ```
//!
//! Guard rails, for a round runs unattended: the policy's steps end when the policy is `stop_kl` away from where the round
//! began; when a step went beyond `skip_kl`, the round is taken back (a policy that far away is broken, and the steps before
//! are why); a step whose loss or gradient is not finite is skipped; a round whose weights say that the data are somebody
//! else's (effective sample size below a half) makes no step at all.
//!
//! Call it inside the learner's thread pool (`pool.install(..)`): micro-batches run side by side, one a thread. The result
//! does not depend on the number of threads.

mod permutation;
mod pretraining;
mod round_stats;
mod step;
mod tally;

use std::{collections::BTreeMap, time::Instant};

use policy::{PolicyVersion, sequence_batch::Sequence};
use reward::ScoredRollout;

pub use permutation::{minibatches, permutation};
pub use pretraining::{PtxStep, pretraining_examples};
pub use round_stats::RoundStats;

use crate::{
    error::PpoError,
    experience::{Experience, Limits, Pace, admit},
    kl::{self, AdaptiveKl},
    models::{Models, Snapshot},
    off_policy::ess_fraction,
    rollout_log::DropReason,
    schedule::warmup_then_constant,
};
use step::{LearningRates, Plan, Progress};

/// A round whose weights have an effective sample size below this learns nothing: the data are not this policy's.
pub const ESS_MIN: f64 = 0.5;
/// Learning rates start at this share of their peak (InstructGPT C.4).
const WARMUP_START: f64 = 0.1;

/// What happened to one rollout of the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It took part; mark it trained when the weights are published.
    Trained,
    /// It never will.
    Dropped(DropReason),
}

/// What a round did.
#[derive(Clone, Debug)]
pub struct RoundOutcome {
    /// One for each rollout, in their order.
    pub fates: Vec<Fate>,
    /// Numbers for charts and logs.
    pub stats: RoundStats,
}

impl RoundOutcome {
    /// Whether the policy's weights changed: without a step there is nothing to publish.
    #[must_use]
    pub fn has_new_policy(&self) -> bool {
        self.stats.n_policy_steps > 0
    }

    /// How many rollouts were dropped, by reason.
    #[must_use]
    pub fn n_dropped(&self) -> BTreeMap<DropReason, usize> {
        let mut counts = BTreeMap::new();
        for fate in &self.fates {
            if let Fate::Dropped(reason) = fate {
                *counts.entry(*reason).or_insert(0) += 1;
            }
        }
        counts
    }
}

/// One update round.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// Every knob of the section.
    pub config: &'a config::Ppo,
    /// Rounds before this one, over the life of the data folder: moves the warm-up and seeds the order of episodes.
    pub update: u64,
    /// The version that `models.policy` holds, then its ancestors as far back as `ppo.max_staleness` allows; rollouts of
    /// other versions are stale.
    pub lineage: &'a [PolicyVersion],
    /// Texts that are mixed in when `ppo.ptx` is on, from [`pretraining_examples`]; may be empty when it is off.
    pub pretraining: &'a [Sequence],
}

impl Round<'_> {
    /// Learns from these rollouts.
    ///
    /// - `models`: changed in place; on any error they are put back bit for bit;
    /// - `rollouts`: any number, usually `ppo.rollouts_per_update`;
    /// - `pace`: called between micro-batches; may sleep, `Break` gives [`PpoError::Interrupted`].
    ///
    /// # Errors
    /// When a pass fails or the round is interrupted.
    pub fn run(
        &self,
        models: &mut Models,
        rollouts: &[ScoredRollout],
        pace: Pace<'_>,
    ) -> Result<RoundOutcome, PpoError> {
        let snapshot = models.snapshot()?;
        self.run_from(&snapshot, models, rollouts, pace)
    }

    /// [`Round::run`] for a caller who keeps a snapshot of the models as they are now anyway.
    ///
    /// # Errors
    /// When a pass fails or the round is interrupted.
    pub fn run_from(
        &self,
        snapshot: &Snapshot,
        models: &mut Models,
        rollouts: &[ScoredRollout],
        pace: Pace<'_>,
    ) -> Result<RoundOutcome, PpoError> {
        let result = self.learn(models, rollouts, snapshot, pace);
        if result.is_err() {
            models.restore(snapshot)?;
        }
        result
    }

    fn learn(
        &self,
        models: &mut Models,
        rollouts: &[ScoredRollout],
        snapshot: &Snapshot,
        pace: Pace<'_>,
    ) -> Result<RoundOutcome, PpoError> {
        let started = Instant::now();
        let vocab_size = models.policy.trunk().shape().vocab_size;
        let admitted = admit(
            rollouts,
            Limits { lineage: self.lineage, vocab_size, trains_client_limited: self.config.client_limit == "score" },
        );
        let mut fates = vec![Fate::Trained; rollouts.len()];
        for (index, reason) in admitted.dropped {
            fates[index] = Fate::Dropped(reason);
        }
        let kl_coef = models.kl_coef;
        let experience = Experience::collect(admitted.episodes, models, self.config, kl_coef, pace)?;
        let experience_s = started.elapsed().as_secs_f64();
        let mut progress = Progress::default();
        if can_learn(&experience) {
            self.update(models, &experience, &mut progress, pace)?;
        }
        if progress.ran_away {
            models.restore_policy(snapshot)?;
            progress.n_policy_steps = 0;
        }
        self.adapt_kl_coef(models, &experience, &progress);
        settle(&mut fates, &experience, &progress);
        let mut stats = RoundStats::new(&experience, &progress);
        stats.n_dropped = fates.iter().filter(|fate| matches!(fate, Fate::Dropped(_))).count();
        let rates = self.learning_rates();
        (stats.policy_learning_rate, stats.value_learning_rate) = (rates.policy, rates.value);
        (stats.kl_coef, stats.kl_coef_next) = (kl_coef, models.kl_coef);
        stats.experience_s = experience_s;
        stats.update_s = started.elapsed().as_secs_f64() - experience_s;
        Ok(RoundOutcome { fates, stats })
    }

    fn update(
        &self,
        models: &mut Models,
        experience: &Experience,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<(), PpoError> {
        let plan = Plan { config: self.config, rates: self.learning_rates(), pretraining: self.pretraining };
        for epoch in 0..self.config.epochs {
            let order = permutation(self.config.seed, self.update, epoch, experience.episodes.len());
            for members in minibatches(&order, self.config.minibatch) {
                let minibatch = step::Minibatch::new(experience, members);
                minibatch.step(models, plan, progress, pace)?;
            }
        }
        Ok(())
    }

    fn learning_rates(&self) -> LearningRates {
        let config = self.config;
        let rate = |peak| warmup_then_constant(peak, WARMUP_START, self.update, config.warmup_updates);
        LearningRates { policy: rate(config.policy_learning_rate), value: rate(config.value_learning_rate) }
    }

    fn adapt_kl_coef(&self, models: &mut Models, experience: &Experience, progress: &Progress) {
        if !self.config.kl_adaptive || progress.n_policy_steps == 0 {
            return;
        }
        let everything = vec![true; experience.n_tokens()];
        let passes = &experience.passes;
        let per_episode = kl::per_sequence(&passes.old, &passes.reference, &everything, &experience.lengths);
        let mean = per_episode.iter().sum::<f64>() / per_episode.len().max(1) as f64;
        let start = AdaptiveKl::new(self.config.kl_coef, self.config.kl_target, self.config.kl_horizon);
        let mut controller = start.resumed(models.kl_coef);
        controller.update(mean, per_episode.len());
        models.kl_coef = controller.coef();
    }
}

/// Whether these data may move the policy at all.
fn can_learn(experience: &Experience) -> bool {
    let kept = (0..experience.episodes.len()).any(|i| experience.is_kept(i));
    // Over the tokens that are left: the filtered ones weigh 0 by decision, not by accident.
    let importance = &experience.importance;
    kept && ess_fraction(&importance.weights, &importance.kept) >= ESS_MIN
}

/// Rollouts that were filtered, or whose round came to nothing, are spent all the same: given back, they would only be
/// claimed again.
fn settle(fates: &mut [Fate], experience: &Experience, progress: &Progress) {
    for index in &experience.broken {
        fates[*index] = Fate::Dropped(DropReason::NonFinite);
    }
    let learnt = progress.n_policy_steps > 0 || progress.n_value_steps > 0;
    for (i, episode) in experience.episodes.iter().enumerate() {
        fates[episode.index] = match () {
            () if progress.ran_away => Fate::Dropped(DropReason::UpdateFailed),
            () if !experience.is_kept(i) => Fate::Dropped(DropReason::OffPolicy),
            () if learnt => Fate::Trained,
            () if can_learn(experience) => Fate::Dropped(DropReason::UpdateFailed),
            () => Fate::Dropped(DropReason::OffPolicy),
        };
    }
}

#[cfg(test)]
mod tests;
