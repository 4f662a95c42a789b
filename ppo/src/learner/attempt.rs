//! One update from claim to publication, and every way in which it can end.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use policy::{PolicyVersion, TokenId};

use super::{
    LearnerState,
    batch::Batch,
    failure::AttemptError,
    no_step::{Idle, tell},
    owner::{Next, Owner},
    trainer::Trainer,
};
use crate::{
    clock::now_ms,
    error::PpoError,
    form,
    gate::{self, Question, Verdict},
    publish::{Loader, Proposal, Published},
    registry::RegistryError,
    rollout_log::{DropReason, LoggedRollout, Outcome, Settlement, Start, StreakRow, UpdateChange, UpdateEnd},
    snapshot::Snapshot,
    state::{self, StateHead},
    stats::{UpdateOutcome, UpdateRecord, named},
    sync_point,
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
            return Next::BackOff("no models".to_string());
        };
        let (update, parent) = (trainer.head.update, trainer.head.version);
        sync_point::reached(self.setup.log.data_dir(), "claimed");
        self.board.set_state(LearnerState::Updating);
        // A panic in the arithmetic may leave the models in any state: then they are dropped, and built anew as at a start.
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let result = self.learn_and_publish(&mut trainer, &batch, loader);
            (trainer, result)
        }));
        let result = match caught {
            Ok((trainer, result)) => {
                // Spoilt models are built anew like those of a panic.
                self.trainer = Some(trainer).filter(|trainer| !trainer.models.is_spoilt);
                result
            }
            Err(panic) => {
                self.obey_what_is_announced();
                Err(AttemptError::panic(panic.as_ref()))
            }
        };
        let mut record = UpdateRecord {
            update,
            ended_ms: now_ms(),
            parent,
            version: None,
            outcome: UpdateOutcome::Failed,
            reason: None,
            numbers: Default::default(),
            seconds: Some(started.elapsed().as_secs_f64()),
        };
        let next = match result {
            Ok(ended) => {
                (self.n_failures, self.n_suspicions) = (0, 0);
                self.describe(&mut record, ended);
                record.numbers.extend(batch.score_numbers());
                self.counters.updates.record(started.elapsed());
                Next::AtOnce
            }
            Err(error) if error.is_interrupted() => {
                record.outcome = UpdateOutcome::Interrupted;
                self.abandon(update, &batch, Outcome::Released);
                self.follow();
                Next::AtOnce
            }
            Err(error) => {
                record.reason = Some(error.to_string());
                self.fail(update, &batch, &error, started.elapsed())
            }
        };
        self.counters.count(record.outcome);
        self.board.record(record);
        sync_point::reached(self.setup.log.data_dir(), "ended");
        self.refresh_moments(update);
        if let (Next::AtOnce, Some(trainer)) = (&next, &mut self.trainer) {
            trainer.save_if_due();
            sync_point::reached(self.setup.log.data_dir(), "saved");
        }
        next
    }

    fn describe(&mut self, record: &mut UpdateRecord, ended: Ended) {
        record.outcome = ended.outcome;
        record.version = ended.version;
        record.reason = ended.reason;
        self.obey_rails(record.update, &ended.round.stats.trips);
        record.numbers = named(&ended.round.stats);
        record.numbers.extend(ended.verdict.map(|verdict| verdict.numbers).unwrap_or_default());
        if let Some(trainer) = &self.trainer {
            let (version, update) = (trainer.head.version, trainer.head.update);
            self.board.write(|status| {
                status.version = version;
                status.n_updates = update;
            });
        }
        tell(record);
    }

    fn learn_and_publish(&self, trainer: &mut Trainer, batch: &Batch, loader: &Loader) -> Result<Ended, AttemptError> {
        let config = &form::configured(&self.setup.config, trainer.models.form());
        let lineage = self.setup.registry.lineage(trainer.head.version, config.max_staleness)?;
        let models = &mut trainer.models;
        models.prepare(config);
        let interrupt = &self.interrupt;
        let (update, pretraining) = (trainer.head.update, &*self.setup.pretraining);
        let round = Round { config, update, lineage: &lineage, pretraining };
        let (snapshot, round) = trainer.pool.install(|| -> Result<_, PpoError> {
            let snapshot = Arc::new(models.snapshot(config)?);
            let mut pace = || match interrupt.load(Ordering::Acquire) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let round = round.run_from(&snapshot, models, &batch.rollouts, &mut pace)?;
            Ok((snapshot, round))
        })?;
        let announced = self.announce_halt(&round.stats.trips);
        let ended = match round.has_new_policy() {
            true => self.publish(trainer, batch, &round, &snapshot, loader),
            false => self.end_without_step(trainer, batch, &round, &snapshot),
        };
        if ended.is_err() {
            self.withdraw_halt(announced);
            trainer.models.restore(&snapshot)?;
        }
        let (outcome, published) = ended?;
        let (version, verdict) = published.map(|published| (published.version, published.verdict)).unzip();
        let reason = match &verdict {
            Some(verdict) => verdict.reason(),
            None => Some(without_step(&round)),
        };
        Ok(Ended { outcome, version, reason, round, verdict })
    }

    fn end_without_step(
        &self,
        trainer: &mut Trainer,
        batch: &Batch,
        round: &RoundOutcome,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(UpdateOutcome, Option<Published>), AttemptError> {
        let (number, parent, digest) = (trainer.head.update, trainer.head.version, trainer.head.digest.clone());
        let (streak, row) = self.streak_after(trainer, UpdateOutcome::NoStep, round, snapshot)?;
        let after = self.head_after(trainer, parent, digest)?;
        let end = update_end(number, UpdateOutcome::NoStep, None, &after, round, row);
        let outcomes = batch.settled(&round.fates, Outcome::Trained(parent));
        let update = Some(UpdateChange::End(Box::new(end)));
        self.setup.log.settle(Settlement { outcomes, update }).map_err(RegistryError::from)?;
        sync_point::reached(self.setup.log.data_dir(), "settled");
        (trainer.head, trainer.streak) = (after, streak);
        self.report_streak(number, row);
        Ok((UpdateOutcome::NoStep, None))
    }

    /// Everything before the commit may fail and be taken back; what is committed is what the record says.
    fn publish(
        &self,
        trainer: &mut Trainer,
        batch: &Batch,
        round: &RoundOutcome,
        snapshot: &Arc<Snapshot>,
        loader: &Loader,
    ) -> Result<(UpdateOutcome, Option<Published>), AttemptError> {
        self.board.set_state(LearnerState::Publishing);
        let (publisher, parent) = (self.publisher(loader), trainer.head.version);
        let sequences = batch.sequences();
        let questions = self.questions(trainer.head.update, batch, &batch.trained_prompts(&round.fates))?;
        let go_on = || !self.interrupt.load(Ordering::Acquire);
        let judged = trainer.pool.install(|| {
            let proposal = Proposal {
                models: &trainer.models,
                source: trainer.beginning.source(),
                parent,
                stats: &round.stats,
                sequences: &sequences,
                n_rollouts: n_trained(round),
                lessons: &round.lessons,
                questions: &questions,
                measured_texts: &self.setup.measured_texts,
            };
            publisher.judge(&proposal, &go_on)
        })?;
        let (version, digest) = (judged.version, judged.digest.to_string());
        let passed = judged.verdict.is_pass();
        let (outcome, end_of_rollouts) = match passed {
            true => (UpdateOutcome::Promoted, Outcome::Trained(version)),
            false => (UpdateOutcome::Rejected, Outcome::Dropped(DropReason::Gate)),
        };
        let conclude = |trainer: &mut Trainer| {
            if passed {
                trainer.write_average(&self.setup, version);
            } else {
                // What the value model learnt stays true.
                trainer.models.restore_policy(snapshot)?;
            }
            let (streak, row) = self.streak_after(trainer, outcome, round, snapshot)?;
            let stands_at = match passed {
                true => (version, digest.clone()),
                false => (parent, trainer.head.digest.clone()),
            };
            Ok::<_, PpoError>((streak, row, self.head_after(trainer, stands_at.0, stands_at.1)?))
        };
        let concluded = conclude(trainer).inspect_err(|error| publisher.abandon(version, &error.to_string()));
        let (streak, row, after) = concluded?;
        let number = trainer.head.update;
        let end = update_end(number, outcome, Some((version, digest)), &after, round, row);
        let mut numbers = end.numbers.clone();
        numbers.insert("update".to_string(), number as f64);
        numbers.extend(batch.score_numbers());
        let outcomes = batch.settled(&round.fates, end_of_rollouts);
        let settlement = Settlement { outcomes, update: Some(UpdateChange::End(Box::new(end))) };
        let published = publisher.commit(judged, settlement, numbers)?;
        (trainer.head, trainer.streak) = (after, streak);
        self.report_streak(number, row);
        if passed {
            self.counters.count_trained(n_trained(round) as u64, round.stats.n_tokens as u64);
        }
        Ok((outcome, Some(published)))
    }

    /// What the gate asks: chosen by the claim alone, so that an update that is repeated after a crash asks the same.
    fn questions(&self, update: u64, batch: &Batch, learnt: &[&[TokenId]]) -> Result<Vec<Question>, AttemptError> {
        let config = &self.setup.config;
        if config.gate_prompts == 0 || gate::Mode::of(config) == gate::Mode::Off {
            return Ok(Vec::new());
        }
        let newest = batch.seqs.iter().copied().max();
        let rows = newest.map(|seq| self.setup.log.reader().newest(seq, gate::ROWS_MAX)).transpose();
        let rows = rows.map_err(RegistryError::from)?.unwrap_or_default();
        let sources = gate::Sources {
            rows: &rows,
            file: &self.setup.questions,
            learnt,
            quarantine: self.setup.log.quarantine(),
            window: gate::Window::of(&self.setup.engine),
        };
        Ok(gate::questions(sources, config, update))
    }

    /// What the models are the state of, once this update has ended at this version.
    fn head_after(&self, trainer: &Trainer, version: PolicyVersion, digest: String) -> Result<StateHead, PpoError> {
        let update = trainer.head.update + 1;
        let fingerprint = trainer.pool.install(|| state::fingerprint(&trainer.models, update))?.to_string();
        Ok(StateHead { update, start: Start::Continued, version, digest, fingerprint })
    }
}

fn update_end(
    number: u64,
    outcome: UpdateOutcome,
    published: Option<(PolicyVersion, String)>,
    after: &StateHead,
    round: &RoundOutcome,
    streak: Option<StreakRow>,
) -> UpdateEnd {
    let (version, digest) = published.unzip();
    let (state_after, numbers) = (after.fingerprint.clone(), named(&round.stats));
    UpdateEnd { number, outcome, version, digest, state_after, numbers, streak }
}

/// Why there is nothing to publish.
fn without_step(round: &RoundOutcome) -> String {
    let (numbers, dropped) = (named(&round.stats), round.n_dropped());
    Idle { numbers: &numbers, dropped: &dropped, n_rollouts: round.fates.len() }.reason()
}

fn n_trained(round: &RoundOutcome) -> usize {
    let trained = |fate: &&Fate| **fate == Fate::Trained;
    round.fates.iter().filter(trained).count()
}
