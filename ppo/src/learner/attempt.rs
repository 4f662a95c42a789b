//! One update from claim to publication, and every way in which it can end.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
    time::Instant,
};

use policy::{PolicyVersion, checkpoint::Digest};

use super::{
    ATTEMPTS_MAX, LearnerState,
    batch::Batch,
    failure::AttemptError,
    owner::{Next, Owner},
    trainer::Trainer,
};
use crate::{
    clock::now_ms,
    error::PpoError,
    gate::Verdict,
    models::Snapshot,
    publish::{Loader, Proposal, PublishError, Published},
    rollout_log::{DropReason, LoggedRollout, Outcome, Seq},
    stats::{UpdateOutcome, UpdateRecord, named},
    update::{Fate, Round, RoundOutcome},
};

/// What an update that ran to its end has to tell.
struct Ended {
    outcome: UpdateOutcome,
    version: Option<PolicyVersion>,
    reason: Option<String>,
    round: RoundOutcome,
    verdict: Option<Verdict>,
}

impl Owner {
    /// Learns from a claim. Whatever happens, the claim is ended.
    pub(super) fn attempt(&mut self, rows: Vec<LoggedRollout>, loader: &Loader) -> Next {
        let started = Instant::now();
        let batch = Batch::new(rows);
        let Some(mut trainer) = self.trainer.take() else {
            return self.fail(&batch, "no models".to_string());
        };
        let (update, parent) = (trainer.update, trainer.version);
        self.board.set_state(LearnerState::Updating);
        // A panic in the arithmetic may leave the models in any state: then they are dropped, and built anew from the live
        // version and its companion.
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let result = self.learn_and_publish(&mut trainer, &batch, loader);
            (trainer, result)
        }));
        let result = match caught {
            Ok((trainer, result)) => {
                self.trainer = Some(trainer);
                result
            }
            Err(panic) => Err(AttemptError::panic(panic.as_ref())),
        };
        let mut record = UpdateRecord {
            update,
            ended_ms: now_ms(),
            parent,
            version: None,
            outcome: UpdateOutcome::Failed,
            reason: None,
            numbers: Default::default(),
            seconds: started.elapsed().as_secs_f64(),
        };
        let next = match result {
            Ok(ended) => {
                self.n_failures = 0;
                self.describe(&mut record, ended);
                record.numbers.extend(batch.score_numbers());
                self.counters.updates.record(started.elapsed());
                Next::AtOnce
            }
            Err(error) if error.is_interrupted() => {
                record.outcome = UpdateOutcome::Interrupted;
                self.end_claim(batch.all(Outcome::Released));
                Next::AtOnce
            }
            Err(error) => {
                record.reason = Some(error.to_string());
                self.fail(&batch, error.to_string())
            }
        };
        self.counters.count(record.outcome);
        self.board.record(record);
        next
    }

    fn describe(&mut self, record: &mut UpdateRecord, ended: Ended) {
        record.outcome = ended.outcome;
        record.version = ended.version;
        record.reason = ended.reason;
        record.numbers = named(&ended.round.stats);
        record.numbers.extend(ended.verdict.map(|verdict| verdict.numbers).unwrap_or_default());
        if let Some(trainer) = &mut self.trainer {
            trainer.update += 1;
            let (version, update) = (trainer.version, trainer.update);
            self.board.write(|status| {
                status.version = version;
                status.n_updates = update;
            });
        }
        tracing::info!(
            update = record.update,
            outcome = record.outcome.as_str(),
            version = record.version.map(|version| version.0),
            reason = record.reason,
            score = ended.round.stats.objective_scores,
            kl = ended.round.stats.objective_kl,
            seconds = record.seconds,
            "update"
        );
    }

    fn learn_and_publish(&self, trainer: &mut Trainer, batch: &Batch, loader: &Loader) -> Result<Ended, AttemptError> {
        let lineage = self.setup.registry.lineage(trainer.version, self.setup.config.max_staleness)?;
        let snapshot = trainer.models.snapshot()?;
        let interrupt = &self.interrupt;
        let round = Round {
            config: &self.setup.config,
            update: trainer.update,
            lineage: &lineage,
            pretraining: &self.setup.pretraining,
        };
        let models = &mut trainer.models;
        let round = trainer.pool.install(|| {
            let mut pace = || match interrupt.load(Ordering::Acquire) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            round.run(models, &batch.rollouts, &mut pace)
        })?;
        if !round.has_new_policy() {
            self.end_claim(batch.settled(&round.fates, Outcome::Trained(trainer.version)));
            return Ok(Ended { outcome: UpdateOutcome::NoStep, version: None, reason: None, round, verdict: None });
        }
        self.board.set_state(LearnerState::Publishing);
        match self.publish(trainer, batch, &round, loader) {
            Ok(published) => Ok(self.conclude(trainer, round, published, &snapshot)?),
            Err(error) => {
                trainer.models.restore(&snapshot)?;
                Err(error.into())
            }
        }
    }

    fn publish(
        &self,
        trainer: &mut Trainer,
        batch: &Batch,
        round: &RoundOutcome,
        loader: &Loader,
    ) -> Result<Published, PublishError> {
        let mut numbers = named(&round.stats);
        numbers.insert("update".to_string(), trainer.update as f64);
        numbers.extend(batch.score_numbers());
        let sequences = batch.sequences();
        let update = trainer.update + 1;
        let publisher = self.publisher(loader);
        let outcomes = |version, verdict: &Verdict| {
            let end = match verdict.is_pass() {
                true => Outcome::Trained(version),
                false => Outcome::Dropped(DropReason::Gate),
            };
            batch.settled(&round.fates, end)
        };
        let mut companion = None;
        let n_rollouts = n_trained(round);
        let published = trainer.pool.install(|| {
            let proposal = Proposal {
                models: &trainer.models,
                source: &trainer.source,
                parent: trainer.version,
                stats: &round.stats,
                numbers,
                sequences: &sequences,
                n_rollouts,
            };
            let before_commit = |version, digest: Digest| {
                if trainer.is_saving_due() {
                    let took = trainer.write_companion(&self.setup, version, update, &digest.to_string());
                    companion = took.map(|took| (version, took));
                }
            };
            let go_on = || !self.interrupt.load(Ordering::Acquire);
            publisher.publish(&proposal, outcomes, before_commit, go_on)
        })?;
        if let Some((version, took)) = companion {
            trainer.wrote_companion(&self.setup, version, update, took);
        }
        Ok(published)
    }

    fn conclude(
        &self,
        trainer: &mut Trainer,
        round: RoundOutcome,
        published: Published,
        snapshot: &Snapshot,
    ) -> Result<Ended, PpoError> {
        let Published { version, verdict } = published;
        let passed = verdict.is_pass();
        if passed {
            trainer.version = version;
            self.counters.count_trained(n_trained(&round) as u64, round.stats.n_tokens as u64);
        } else {
            // What the value model learnt stays true.
            trainer.models.restore_policy(snapshot)?;
        }
        Ok(Ended {
            outcome: if passed { UpdateOutcome::Promoted } else { UpdateOutcome::Rejected },
            version: Some(version),
            reason: (!passed).then(|| verdict.refusals.join("; ")),
            round,
            verdict: Some(verdict),
        })
    }

    /// A claim whose update failed goes back, until it failed too often.
    fn fail(&mut self, batch: &Batch, reason: String) -> Next {
        self.n_failures += 1;
        let give_up = self.n_failures.is_multiple_of(ATTEMPTS_MAX);
        let outcome = match give_up {
            true => Outcome::Dropped(DropReason::UpdateFailed),
            false => Outcome::Released,
        };
        self.end_claim(batch.all(outcome));
        Next::BackOff(reason)
    }

    /// Ends a claim outside a publication. When even that fails, the next start gives it back.
    fn end_claim(&self, outcomes: Vec<(Seq, Outcome)>) {
        if let Err(error) = self.setup.log.settle(outcomes) {
            tracing::error!(%error, "a claim could not be ended; a restart gives it back");
        }
    }
}

fn n_trained(round: &RoundOutcome) -> usize {
    let trained = |fate: &&Fate| **fate == Fate::Trained;
    round.fates.iter().filter(trained).count()
}
