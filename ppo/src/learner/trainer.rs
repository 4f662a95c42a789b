//! The models that a learner holds between rounds, and how they come into memory.

use std::time::{Duration, Instant};

use candle_core::Device;
use policy::{
    PolicyVersion,
    architecture::llama::TOKEN_EMBEDDING,
    checkpoint::{Checkpoint, WeightType},
    model_error::ModelError,
    threads::learner_pool,
};

use super::{LearnerSetup, ValueStart, rails::Streak, saved};
use crate::{error::PpoError, models::Models, registry::RegistryError, rollout_log::VersionRow, value_model};

/// Writing what a restart needs may take this share of the time, 1/N.
const SAVING_SHARE: u32 = 20;

/// Suffix of the file that holds the moving average of the weights.
pub(super) const AVERAGE_SUFFIX: &str = "average.gguf";

/// Why the models could not be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Ppo(#[from] PpoError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("ppo.device: {0}")]
    Device(#[from] candle_core::Error),
}

impl BuildError {
    /// Whether trying again can help.
    pub(super) fn is_permanent(&self) -> bool {
        let model = match self {
            BuildError::Model(error) | BuildError::Ppo(PpoError::Model(error)) => error,
            BuildError::Ppo(PpoError::ValueModel { .. }) | BuildError::Device(_) => return true,
            BuildError::Registry(_) | BuildError::Ppo(_) => return false,
        };
        use ModelError::{MissingTensor, TensorShape, Unsupported, Untrainable};
        matches!(model, Untrainable(_) | Unsupported(_) | MissingTensor(_) | TensorShape { .. })
    }
}

/// Models, and what they are the models of.
pub(super) struct Trainer {
    pub(super) models: Models,
    /// All of the trainer's arithmetic runs in here, at nice 19.
    pub(super) pool: rayon::ThreadPool,
    /// Version 0: metadata and types of published files.
    pub(super) source: Checkpoint,
    /// The version that `models.policy` holds.
    pub(super) version: PolicyVersion,
    /// Number of the next update.
    pub(super) update: u64,
    /// Rounds that taught nothing.
    pub(super) streak: Streak,
    saving: Saving,
}

/// When what a restart needs was written, and what it cost.
struct Saving {
    last: Option<Instant>,
    took: Duration,
    /// The version and the update of the newest file.
    holds: Option<(PolicyVersion, u64)>,
}

impl Trainer {
    /// Builds the models of the live version: f32 masters, value model, moments and β from its companion file when that is
    /// there and belongs to it.
    pub(super) fn build(setup: &LearnerSetup) -> Result<Trainer, BuildError> {
        let pool = learner_pool(setup.config.threads)?;
        let loaded = pool.install(|| Loaded::new(setup))?;
        let holds = loaded.is_restored.then_some((loaded.version, loaded.update));
        Ok(Trainer {
            models: loaded.models,
            pool,
            source: loaded.source,
            version: loaded.version,
            update: loaded.update,
            streak: Streak::default(),
            saving: Saving { last: None, took: Duration::ZERO, holds },
        })
    }

    /// Takes over another version's weights, with fresh moments; the value model keeps what it learnt.
    pub(super) fn rebase(self, setup: &LearnerSetup, row: &VersionRow) -> Result<Trainer, BuildError> {
        let device = device(&setup.config.device)?;
        let Trainer { models, pool, source, update, saving, .. } = self;
        let (models, source) = pool.install(|| -> Result<_, BuildError> {
            let policy = Checkpoint::read(&row.path)?;
            let Models { value, control, .. } = models;
            let mut models = Models::new(&policy, &source, value, &setup.config, &device)?;
            // The value model is as warm as it was, and the text goes on where it stopped.
            models.control = control;
            Ok((models, source))
        })?;
        Ok(Trainer { models, pool, source, version: row.version, update, streak: Streak::default(), saving })
    }

    /// Whether it is time to write what a restart needs.
    pub(super) fn is_saving_due(&self) -> bool {
        let Saving { last, took, .. } = self.saving;
        last.is_none_or(|last| last.elapsed() > took * SAVING_SHARE)
    }

    /// Writes what a restart needs beside a version; returns how long it took. A failure costs a fresh start of the moments,
    /// no more.
    pub(super) fn write_companion(
        &self,
        setup: &LearnerSetup,
        version: PolicyVersion,
        update: u64,
        digest: &str,
    ) -> Option<Duration> {
        let started = Instant::now();
        let path = setup.registry.companion(version, saved::SUFFIX);
        match saved::save(&path, &self.models, update, digest) {
            Ok(()) => Some(started.elapsed()),
            Err(error) => {
                tracing::warn!(%version, %error, "the learner's state could not be saved");
                None
            }
        }
    }

    /// Writes the moving average of the policy's weights, where there is one, beside a version: a model file of its own, to be
    /// evaluated or served elsewhere. A failure costs that file.
    pub(super) fn write_average(&self, setup: &LearnerSetup, version: PolicyVersion) {
        let Some(average) = &self.models.average else {
            return;
        };
        let weight_type =
            WeightType::parse(&setup.config.weight_type).expect("config has checked the words of ppo.weight_type");
        let path = setup.registry.companion(version, AVERAGE_SUFFIX);
        if let Err(error) = average.to_checkpoint(&self.source, weight_type).write(&path) {
            tracing::warn!(%version, %error, "the average of the weights could not be saved");
        }
    }

    /// Takes note of a companion that belongs to the live version now, and removes the one before it.
    pub(super) fn wrote_companion(
        &mut self,
        setup: &LearnerSetup,
        version: PolicyVersion,
        update: u64,
        took: Duration,
    ) {
        if let Some((older, _)) = self.saving.holds.filter(|(older, _)| *older != version) {
            // What stays is removed with its version.
            let _ = std::fs::remove_file(setup.registry.companion(older, saved::SUFFIX));
        }
        self.saving = Saving { last: Some(Instant::now()), took, holds: Some((version, update)) };
    }

    /// Writes what a restart needs beside the live version, unless it is there.
    pub(super) fn save(&mut self, setup: &LearnerSetup, row: &VersionRow) {
        if self.saving.holds == Some((row.version, self.update)) {
            return;
        }
        let took = self.write_companion(setup, row.version, self.update, &row.digest);
        if let Some(took) = took {
            self.wrote_companion(setup, row.version, self.update, took);
        }
    }
}

/// What [`Trainer::build`] reads from disk.
struct Loaded {
    models: Models,
    source: Checkpoint,
    version: PolicyVersion,
    update: u64,
    is_restored: bool,
}

impl Loaded {
    fn new(setup: &LearnerSetup) -> Result<Loaded, BuildError> {
        let device = device(&setup.config.device)?;
        let live = setup.registry.live()?;
        let source = Checkpoint::read(&setup.registry.path(PolicyVersion::SFT))?;
        let policy = Checkpoint::read(&live.path)?;
        let fresh = || -> Result<Models, BuildError> {
            let value = match &setup.value_start {
                ValueStart::Policy => value_model::from_policy(&source, &device)?,
                ValueStart::RewardModel { checkpoint, normalization } => {
                    let vocab_size = source.tensor(TOKEN_EMBEDDING)?.dim(0)?;
                    value_model::from_reward_model(checkpoint, *normalization, vocab_size, &device)?
                }
            };
            Ok(Models::new(&policy, &source, value, &setup.config, &device)?)
        };
        let mut models = fresh()?;
        let companion = setup.registry.companion(live.version, saved::SUFFIX);
        let restored = saved::restore(&companion, &mut models, &live.digest);
        if let Err(error) = &restored {
            if live.version != PolicyVersion::SFT {
                tracing::warn!(version = %live.version, %error, "the learner begins with fresh moments and value model");
            }
            models = fresh()?;
        }
        if !setup.config.kl_adaptive {
            // A controller's coefficient is state; a fixed one is the operator's word of today.
            models.kl_coef = setup.config.kl_coef;
        }
        Ok(Loaded {
            models,
            source,
            version: live.version,
            is_restored: restored.is_ok(),
            update: restored.unwrap_or_else(|_| next_update(&live)),
        })
    }
}

fn next_update(live: &VersionRow) -> u64 {
    live.numbers.get("update").map_or(0, |update| *update as u64 + 1)
}

/// `cpu` or `cuda:N`; `config` has checked the words.
fn device(name: &str) -> candle_core::Result<Device> {
    match name.strip_prefix("cuda:").map(str::parse) {
        Some(Ok(ordinal)) => Device::new_cuda(ordinal),
        _ => Ok(Device::Cpu),
    }
}
