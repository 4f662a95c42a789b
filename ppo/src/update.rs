//! One update round: from scored rollouts to better weights.
//!
//! The round works on the models in memory and on nothing else: no file, no database, no clock but for statistics. Its
//! caller owns the rest: it claims the rollouts, persists what a round changes (weights, moments, β), publishes. So a round
//! that fails or is interrupted leaves the models *bit for bit* as they were, or marked as spoilt where a copy would be too
//! large to take ([`crate::snapshot`]).
//!
//! ```text
//! admit        which rollouts are episodes, and why the others are not
//! collect      old (unless `ppo.proximal` spares it), reference and value passes; token rewards; GAE; importance weights;
//!              whitening
//! for each epoch, for each minibatch:
//!              (the first step goes back from the passes of `collect`, where they still are: `experience::ahead`)
//!     policy   Σ micro-batches of the clipped loss over the *minibatch's* tokens, pretraining text, clip the norm, Adam
//!     value    the same for the value loss, with its own norm and its own Adam
//! arrive       how far the last step has brought it
//! settle       β follows the KL; fates of the rollouts; statistics
//! ```
//!
//! Guard rails ([`guard`](crate::guard)), for a round runs unattended: the policy's steps end when the policy is `stop_kl`
//! away from where the round began; when a step went beyond `skip_kl`, the last one among them, the round is taken back (a
//! policy that far away is broken, and the steps before are why); a step whose loss or gradient is not finite, or far beyond the
//! usual, is skipped, and the round is taken back when several in a row are; a round of which too little may train, or whose
//! weights say that the data are somebody else's, makes no step at all.
//!
//! Call it inside the learner's thread pool (`pool.install(..)`): micro-batches run side by side, one a thread. The result
//! does not depend on the number of threads.

mod arrival;
mod first_minibatch;
mod outcome;
mod permutation;
mod pretraining;
mod progress;
mod rates;
mod round_stats;
mod sabotage;
mod step;
mod tally;
mod tokens;
mod watch;

use std::time::Instant;

use policy::{PolicyVersion, sequence_batch::Sequence};
use reward::ScoredRollout;

pub use first_minibatch::FirstMinibatchStats;
pub use outcome::{Fate, RoundOutcome};
pub use permutation::{minibatches, permutation};
pub use pretraining::{PretrainingTexts, PtxStep, pretraining_examples};
pub use round_stats::RoundStats;

use crate::{
    averaging::WeightAverage,
    error::PpoError,
    experience::{AdvantageEstimator, Ahead, Episode, Experience, Limits, Pace, admit},
    guard::Guard,
    kl::{self, AdaptiveKl},
    loss::Aggregation,
    models::Models,
    snapshot::Snapshot,
};
use arrival::Arrival;
use outcome::settle;
use progress::Progress;
use rates::LearningRates;
use step::Plan;

/// One update round.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// Every knob of the section.
    pub config: &'a config::Ppo,
    /// Rounds before this one, over the life of the data folder: moves the value model's warm-up of its rate, and seeds the order
    /// of episodes.
    pub update: u64,
    /// The version that `models.policy` holds, then its ancestors as far back as `ppo.max_staleness` allows; rollouts of
    /// other versions are stale.
    pub lineage: &'a [PolicyVersion],
    /// Texts that are mixed in when `ppo.ptx` is on, from [`PretrainingTexts::learnt`]; may be empty when it is off.
    pub pretraining: &'a [Sequence],
}

impl Round<'_> {
    /// Learns from these rollouts.
    ///
    /// - `models`: changed in place; on any error they are put back bit for bit, or marked as spoilt;
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
        let snapshot = models.snapshot(self.config)?;
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
            Limits {
                lineage: self.lineage,
                vocab_size,
                trains_client_limited: self.config.client_limit != "drop",
                held_out_share: self.config.held_out_share,
            },
        );
        let mut fates = vec![Fate::Trained; rollouts.len()];
        for (index, reason) in admitted.dropped {
            fates[index] = Fate::Dropped(reason);
        }
        let held_out = watch::held_out_score(rollouts, &fates);
        let kl_coef = models.kl_coef;
        let plan = Plan {
            config: self.config,
            rates: LearningRates::of(self.config, &models.control, self.update),
            pretraining: self.pretraining,
            is_warming_up: self.is_warming_up(models),
        };
        let (experience, ahead) = self.collect(admitted.episodes, models, pace)?;
        let experience_s = started.elapsed().as_secs_f64();
        let mut progress = Progress::default();
        self.watch(models, &experience, held_out, &mut progress.trips);
        if progress.trips.is_empty() {
            // What tripped already says more exactly why nothing is learnt.
            watch::watch_size(&experience, &fates, &mut progress.trips);
        }
        let mut arrival = Arrival::default();
        if has_lessons(&experience) && !progress.trips.forbid_learning() {
            self.update(models, plan, &experience, ahead, &mut progress, pace)?;
            arrival = self.arrive(models, &experience, &mut progress, pace)?;
            sabotage::spoil_if_armed(models)?;
        }
        if progress.ran_away {
            models.restore_policy(snapshot)?;
            progress.n_policy_steps = 0;
        }
        models.control.n_value_rounds += u64::from(plan.is_warming_up && progress.n_value_steps > 0);
        models.control.n_policy_rounds += u64::from(progress.n_policy_steps > 0);
        self.average(models, &progress)?;
        self.adapt_kl_coef(models, &experience, &progress);
        settle(&mut fates, &experience, &progress);
        let mut stats = RoundStats::new(&experience, &progress);
        stats.n_dropped = fates.iter().filter(|fate| matches!(fate, Fate::Dropped(_))).count();
        (stats.policy_learning_rate, stats.value_learning_rate) = (plan.rates.policy, plan.rates.value);
        stats.value_head_learning_rate = plan.rates.value_head;
        (stats.kl_coef, stats.kl_coef_next) = (kl_coef, models.kl_coef);
        stats.held_out_score = held_out;
        stats.n_reward_versions = watch::n_reward_versions(rollouts);
        stats.is_value_warmup = plan.is_warming_up;
        stats.policy_final_kl_k3 = arrival.kl_k3;
        stats.policy_final_kl_to_reference = arrival.kl_to_reference;
        stats.experience_s = experience_s;
        stats.update_s = started.elapsed().as_secs_f64() - experience_s;
        Ok(RoundOutcome { fates, stats, lessons: arrival.lessons })
    }

    fn update(
        &self,
        models: &mut Models,
        plan: Plan<'_>,
        experience: &Experience,
        mut ahead: Ahead,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<(), PpoError> {
        if self.config.ema_decay > 0.0 && models.average.is_none() {
            models.average = Some(WeightAverage::of(models.policy.parameters())?);
        }
        for epoch in 0..self.config.epochs {
            let order = self.order(epoch, experience.episodes.len());
            for members in minibatches(&order, self.config.minibatch) {
                let minibatch = step::Minibatch::new(experience, members, Aggregation::of(self.config));
                minibatch.step(models, plan, std::mem::take(&mut ahead), progress, pace)?;
                if progress.is_refused {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Looks where the last step has brought the policy, unless it is to be taken back already.
    fn arrive(
        &self,
        models: &Models,
        experience: &Experience,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<Arrival, PpoError> {
        if progress.n_policy_steps == 0 || progress.ran_away {
            return Ok(Arrival::default());
        }
        let arrival = Arrival::measure(experience, progress.first.as_ref(), models, self.config, pace)?;
        progress.watch_arrival(arrival.kl_k3, self.config);
        // The gate refuses it, and so it would the next one from the same beginning, for ever: people must decide.
        if self.config.kl_budget > 0.0 && arrival.kl_to_reference > self.config.kl_budget {
            progress.trips.add(Guard::KlBudget, arrival.kl_to_reference, self.config.kl_budget);
        }
        Ok(arrival)
    }

    /// In which order an epoch goes through so many episodes.
    fn order(&self, epoch: u32, n_episodes: usize) -> Vec<usize> {
        permutation(self.config.seed, self.update, epoch, n_episodes)
    }

    /// Rounds of a new value model in which the policy stands still.
    fn is_warming_up(&self, models: &Models) -> bool {
        let needs_values = AdvantageEstimator::of(self.config).needs_values();
        needs_values && models.control.n_value_rounds < self.config.value_warmup_updates
    }

    /// Steps 2 to 5. While the value model warms up its targets are whole returns (λ = 1, and scores also of what was cut off): what
    /// it says itself is not worth bootstrapping from yet.
    fn collect(
        &self,
        episodes: Vec<Episode>,
        models: &Models,
        pace: Pace<'_>,
    ) -> Result<(Experience, Ahead), PpoError> {
        let mut config = self.config.clone();
        if self.is_warming_up(models) {
            config.lambda = 1.0;
            for (knob, otherwise) in [(&mut config.missing_eos, "keep"), (&mut config.client_limit, "score")] {
                if knob == "bootstrap" {
                    otherwise.clone_into(knob);
                }
            }
        }
        let order = self.order(0, episodes.len());
        let first = minibatches(&order, config.minibatch).first().copied().unwrap_or_default();
        Experience::collect(episodes, first, models, &config, models.kl_coef, pace)
    }

    /// The moving average of the policy's weights takes its step when the policy took one, and ends where nobody wants one any more.
    fn average(&self, models: &mut Models, progress: &Progress) -> Result<(), PpoError> {
        if self.config.ema_decay == 0.0 {
            models.average = None;
        }
        if let Some(average) = models.average.as_mut().filter(|_| progress.n_policy_steps > 0) {
            average.follow(models.policy.parameters(), self.config.ema_decay)?;
        }
        Ok(())
    }

    fn adapt_kl_coef(&self, models: &mut Models, experience: &Experience, progress: &Progress) {
        if !self.config.kl_adaptive || progress.n_policy_steps == 0 {
            return;
        }
        let everything = vec![true; experience.n_tokens()];
        let (old, reference) = (&experience.old_or_drawn, &experience.passes.reference);
        let per_episode = kl::per_sequence(old, reference, &everything, &experience.lengths);
        let mean = per_episode.iter().sum::<f64>() / per_episode.len().max(1) as f64;
        let start = AdaptiveKl::new(self.config.kl_coef, self.config.kl_target, self.config.kl_horizon);
        let mut controller = start.resumed(models.kl_coef);
        controller.update(mean, per_episode.len());
        models.kl_coef = controller.coef();
    }
}

/// Whether any token may train.
fn has_lessons(experience: &Experience) -> bool {
    (0..experience.episodes.len()).any(|i| experience.is_kept(i))
}

#[cfg(test)]
mod tests;
