//! The models that a learner holds between rounds, and how they come into memory.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use policy::{
    PolicyVersion,
    checkpoint::{Checkpoint, WeightType},
    model_error::ModelError,
    threads::learner_pool,
};

use super::{LearnerSetup, rails::Streak, saving::Saving};
use crate::{
    arithmetic::arithmetic,
    averaging,
    beginning::Beginning,
    error::PpoError,
    form::{self, Form},
    models::Models,
    registry::RegistryError,
    replay::{Archive, Reached, Replay, ReplayError},
    rollout_log::{Start, UpdateRow, UpdateStart, VersionRow},
    state::StateHead,
    stats::LearnerCounters,
};

/// Why the models could not be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Ppo(#[from] PpoError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Replay(Box<ReplayError>),
    #[error("the folder of the learner's states: {0}")]
    Folder(#[from] std::io::Error),
}

impl From<ReplayError> for BuildError {
    fn from(error: ReplayError) -> BuildError {
        BuildError::Replay(Box::new(error))
    }
}

impl BuildError {
    /// Whether trying again can help.
    pub(super) fn is_permanent(&self) -> bool {
        let model = match self {
            BuildError::Model(error) | BuildError::Ppo(PpoError::Model(error)) => error,
            BuildError::Ppo(PpoError::ValueModel { .. } | PpoError::Device(_) | PpoError::WholeModel) => return true,
            _ => return false,
        };
        use ModelError::{Memory, MissingTensor, TensorShape, Unsupported, Untrainable};
        matches!(model, Untrainable(_) | Unsupported(_) | MissingTensor(_) | TensorShape { .. } | Memory { .. })
    }

    /// Whether a command came first, and nothing is wrong.
    pub(super) fn is_interrupted(&self) -> bool {
        match self {
            BuildError::Ppo(PpoError::Interrupted) => true,
            BuildError::Replay(error) => error.is_interrupted(),
            _ => false,
        }
    }
}

/// Models, and what they are the models of.
pub(super) struct Trainer {
    pub(super) models: Models,
    /// All of the trainer's arithmetic runs in here, at nice 19.
    pub(super) pool: rayon::ThreadPool,
    /// What models are made from.
    pub(super) beginning: Beginning,
    /// What the models are the state of: the number of the next update, and the version that they stand at.
    pub(super) head: StateHead,
    /// Rounds that taught nothing.
    pub(super) streak: Streak,
    pub(super) saving: Saving,
}

impl Trainer {
    /// Builds the models of the live version as the last process left them: from the newest state on disk, and by computing
    /// the updates since again. When that cannot be, an error line says why, and moments begin anew. Rank and alpha are the live
    /// version's, whatever is configured by now.
    pub(super) fn build(
        setup: &LearnerSetup,
        counters: &LearnerCounters,
        interrupt: &AtomicBool,
    ) -> Result<Trainer, BuildError> {
        let live = setup.registry.live()?;
        let form = form_of(setup, &live)?;
        form::tell(live.version, form, &setup.config);
        let config = &form::configured(&setup.config, form);
        let pool = learner_pool(config.threads)?;
        let archive = Archive::open(setup.log.data_dir())?;
        let states = archive.states();
        states.create()?;
        let sft = setup.registry.path(PolicyVersion::SFT);
        let beginning = pool.install(|| Beginning::new(&sft, setup.value_start.clone(), config))?;
        let beginning = beginning.with_pretraining(Arc::clone(&setup.pretraining));
        let update = next_update(archive.newest_update()?.as_ref(), &live);
        let replay = Replay { archive: &archive, beginning: &beginning, config, pool: &pool, interrupt };
        let reached = match resume(&replay, update, &live, form) {
            Ok((reached, streak)) => {
                counters.replayed.fetch_add(reached.n_replayed, Ordering::Relaxed);
                Some((reached, streak))
            }
            Err(error @ ReplayError::Log(_)) => return Err(error.into()),
            Err(error) if error.is_interrupted() => return Err(error.into()),
            // Nobody has learnt anything here: the live version is the first one, or came from outside.
            Err(ReplayError::Nothing) if update == 0 || live.version == PolicyVersion::SFT => {
                tracing::info!(version = %live.version, "the learner begins, with fresh moments and value model");
                None
            }
            Err(error) => {
                counters.resets.fetch_add(1, Ordering::Relaxed);
                tracing::error!(version = %live.version, %error, "the learner begins with fresh moments and value model");
                None
            }
        };
        let (saved, head, models, streak) = match reached {
            Some((reached, streak)) => {
                (reached.saved, reached.head.clone(), reached.into_models(&beginning, config)?, streak)
            }
            None => {
                let weights = Checkpoint::read(&live.path)?;
                let models = pool.install(|| beginning.models(&weights, config))?;
                let head = replay.head(&models, update, Start::Fresh, live.version, &live.digest)?;
                (None, head, models, Streak::default())
            }
        };
        let saving = Saving::new(config, states, saved, &head);
        Ok(Trainer { models, pool, beginning, head, streak, saving })
    }

    /// Takes over another version's weights, with fresh moments; the value model keeps what it learnt.
    pub(super) fn rebase(self, setup: &LearnerSetup, row: &VersionRow) -> Result<Trainer, BuildError> {
        let Trainer { models, pool, beginning, head, saving, .. } = self;
        let weights = Checkpoint::read(&row.path)?;
        let form = form_of(setup, row)?;
        form::tell(row.version, form, &setup.config);
        let config = form::configured(&setup.config, form);
        let models = pool.install(|| beginning.rebased(models, &weights, &config))?;
        let fingerprint = pool.install(|| crate::state::fingerprint(&models, head.update))?.to_string();
        let (version, digest) = (row.version, row.digest.clone());
        let head = StateHead { update: head.update, start: Start::Rebased, version, digest, fingerprint };
        Ok(Trainer { models, pool, beginning, head, streak: Streak::default(), saving })
    }

    /// Writes the moving average of the policy's weights, where there is one, beside a version: a model file of its own, to be
    /// judged ([`crate::averages`]), or served elsewhere. A failure costs that file.
    pub(super) fn write_average(&self, setup: &LearnerSetup, version: PolicyVersion) {
        let Some(average) = &self.models.average else {
            return;
        };
        let weight_type =
            WeightType::parse(&setup.config.weight_type).expect("config has checked the words of ppo.weight_type");
        let path = setup.registry.companion(version, averaging::FILE_SUFFIX);
        // As the policy's file is: a whole model, or an adapter.
        let like = self.models.policy.to_checkpoint(self.beginning.source(), weight_type);
        let written = like.and_then(|like| average.to_checkpoint(&like, weight_type).write(&path));
        if let Err(error) = written {
            tracing::warn!(%version, %error, "the average of the weights could not be saved");
        }
    }

    /// The record of the update that would begin now: its configuration is the one that is in force, with the rank and alpha that
    /// these models have.
    pub(super) fn next_start(&self, config: &config::Ppo) -> UpdateStart {
        UpdateStart {
            number: self.head.update,
            start: self.head.start,
            parent: self.head.version,
            parent_digest: self.head.digest.clone(),
            state_before: self.head.fingerprint.clone(),
            config: form::configured(config, self.models.form()).assignments(),
            arithmetic: arithmetic(config),
            n_threads: self.pool.current_num_threads(),
            pretraining: self.beginning.pretraining_digest(config),
        }
    }
}

/// The form that the learner keeps at a version.
pub(super) fn form_of(setup: &LearnerSetup, row: &VersionRow) -> Result<Form, ModelError> {
    form::of_version(row.version, &row.path, &setup.registry.path(PolicyVersion::SFT), &setup.config)
}

/// The state that the last update left, and what was remembered of rounds that taught nothing.
fn resume(replay: &Replay<'_>, update: u64, live: &VersionRow, form: Form) -> Result<(Reached, Streak), ReplayError> {
    let last = update.checked_sub(1).map(|last| replay.archive.update(last)).transpose()?.flatten();
    let streak = last.and_then(|row| row.end).and_then(|end| end.streak).filter(|streak| !streak.went_back);
    let (reached, streak) = match streak {
        None => (replay.reach(update)?, Streak::default()),
        Some(recorded) => match replay.reach_through(recorded.first, update) {
            Ok((reached, before)) => (reached, Streak::resumed(recorded, before)),
            // Another honed computes them otherwise. What they knew of each other is lost, and not what is learnt.
            Err(ReplayError::Different { .. }) => {
                tracing::warn!(
                    "rounds that taught nothing cannot be computed again as they were; they are not counted any more"
                );
                (replay.reach(update)?, Streak::default())
            }
            Err(error) => return Err(error),
        },
    };
    if streak.wants_fresh_moments() {
        return Ok((reached.rebased(replay, live)?, Streak::default()));
    }
    if (reached.head.version, &reached.head.digest) == (live.version, &live.digest) {
        let had = reached.models.form();
        if had == form {
            return Ok((reached, streak));
        }
        // At version 0, which stands for every form.
        let [from, to] = [had, form].map(form::shown);
        tracing::info!(from, to, "the learner begins at version 0 as configured by now, with fresh moments");
        return Ok((reached.rebased(replay, live)?, Streak::default()));
    }
    // Another version: whatever went wrong before went wrong on the way that was left.
    Ok((follow(replay, reached, live)?, Streak::default()))
}

/// Where the live version is another than the state's, because somebody activated it, the state follows.
fn follow(replay: &Replay<'_>, reached: Reached, live: &VersionRow) -> Result<Reached, ReplayError> {
    tracing::info!(from = %reached.head.version, to = %live.version, "the learner follows an activation");
    reached.rebased(replay, live)
}

/// One after the newest record; a log from before there were records says it in the live version's numbers.
pub(super) fn next_update(newest: Option<&UpdateRow>, live: &VersionRow) -> u64 {
    let recorded = newest.map_or(0, |row| row.start.number + 1);
    let published = live.numbers.get("update").map_or(0, |update| *update as u64 + 1);
    recorded.max(published)
}
