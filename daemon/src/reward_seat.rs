//! The reward model that judges, and how another takes its place while requests run.
//!
//! ```text
//! find    the configured file, or one inside `reward.folder`; never through a link that leads out of it
//! plan    memory for both models at once; what does not fit is refused
//! read    aside, at low priority: shape, heads, normalisation, vocabulary, the base of an adapter, a canary's finite scores
//! tell    the log, in one transaction: unclaimed rollouts that the old one judged will be judged again
//! seat    one pointer; jobs that were handed over before keep the old model until they are answered
//! ```
//!
//! Whatever fails before the last step leaves the old model judging. The learner is not told: its value model started from
//! the reward model of its first day, and has been learning from returns since, whoever judged them. An adapter goes on
//! sharing version 0's weights with the adapter that it replaces. A restart reads the configured file again.

mod error;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use candle_core::Device;
use config::Config;
use policy::{
    checkpoint::{Checkpoint, metadata_of_file, shape_of_file},
    failpoint,
    memory::{self, MemoryPlan, weight_bytes},
    model_error::ModelError,
    threads,
    transformer::is_adapter,
};
use ppo::{RolloutLog, models::frozen};
use reward::{
    Combination, RewardModel, RewardModelError, Scorer,
    sources::model::{self, ModelFile},
};

pub(crate) use self::error::SeatError;
use crate::demo::artefacts;

/// What an administrator asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// A file inside `reward.folder`; `None` is the configured one, read again.
    pub(crate) path: Option<String>,
    /// Only if this model judges now: `model@<digest>`.
    pub(crate) expected: Option<String>,
}

/// Who sits.
#[derive(Clone)]
pub(crate) struct Seated {
    /// Trunk, heads, normalisation.
    pub(crate) model: Arc<RewardModel>,
    /// `model@<digest>`, of an ensemble with its combination.
    pub(crate) version: String,
    /// Its file; `None` for the built-in one.
    pub(crate) path: Option<PathBuf>,
    /// Since when, milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
}

/// What became of an order.
pub(crate) struct Change {
    /// Who sits now.
    pub(crate) seated: Seated,
    /// Who sat before; `None` when it was the same.
    pub(crate) replaced: Option<String>,
    /// Rollouts that will be judged again.
    pub(crate) n_rejudged: u64,
}

/// What was done, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct SeatCounters {
    /// Models that took the seat.
    pub(crate) seated: AtomicU64,
    /// Orders that found the same file.
    pub(crate) unchanged: AtomicU64,
    /// Orders that were refused.
    pub(crate) refused: AtomicU64,
    /// Rollouts given back to be judged again.
    pub(crate) rejudged: AtomicU64,
}

/// The seat of the reward model.
pub(crate) struct RewardSeat {
    config: Config,
    vocabulary_digest: String,
    sft: PathBuf,
    seated: Mutex<Seated>,
    /// Held while a model is read: two at once would be three in memory.
    turn: Mutex<()>,
    /// For `/metrics`.
    pub(crate) counters: SeatCounters,
}

impl RewardSeat {
    /// The seat of a model that judges already.
    pub(crate) fn new(
        config: &Config,
        vocabulary_digest: &str,
        sft: &Path,
        model: Arc<RewardModel>,
        version: &str,
    ) -> Self {
        let path = (!config.reward.model.is_empty()).then(|| PathBuf::from(&config.reward.model));
        RewardSeat {
            config: config.clone(),
            vocabulary_digest: vocabulary_digest.to_owned(),
            sft: sft.to_owned(),
            seated: Mutex::new(Seated { model, version: version.to_owned(), path, since_ms: now_ms() }),
            turn: Mutex::new(()),
            counters: SeatCounters::default(),
        }
    }

    /// Who sits. Never waits for a model that is being read.
    pub(crate) fn seated(&self) -> Seated {
        self.lock().clone()
    }

    /// Reads a model, and has it judge from the next request on.
    ///
    /// # Errors
    /// [`SeatError`]; the old one goes on judging.
    pub(crate) fn replace(&self, order: &Order, scorer: &Scorer, log: &RolloutLog) -> Result<Change, SeatError> {
        let change = self.try_replace(order, scorer, log);
        let counter = match &change {
            Ok(Change { replaced: Some(_), .. }) => &self.counters.seated,
            Ok(_) => &self.counters.unchanged,
            Err(_) => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match &change {
            Ok(Change { seated, replaced: Some(old), n_rejudged }) => {
                tracing::info!(version = seated.version, old, n_rejudged, "another reward model judges");
            }
            Ok(Change { seated, .. }) => tracing::info!(version = seated.version, "the reward model is the same"),
            Err(error) => tracing::error!(%error, "the reward model stays"),
        }
        change
    }

    fn try_replace(&self, order: &Order, scorer: &Scorer, log: &RolloutLog) -> Result<Change, SeatError> {
        let _turn = self.turn.try_lock().map_err(|_| SeatError::Busy)?;
        let old = self.seated();
        if let Some(expected) = order.expected.as_ref().filter(|expected| **expected != old.version) {
            return Err(SeatError::Changed { expected: expected.clone(), found: old.version });
        }
        let path = self.find(order.path.as_deref())?;
        let (model, judge) = self.read(path.as_deref(), &old.model)?;
        if judge.version == old.version {
            return Ok(Change { seated: old, replaced: None, n_rejudged: 0 });
        }
        let n_rejudged = log.seat_reward_model(&judge.version)? as u64;
        self.counters.rejudged.fetch_add(n_rejudged, Ordering::Relaxed);
        let seated = Seated { model, version: judge.version.clone(), path, since_ms: now_ms() };
        scorer.seat(judge).expect("the scorer was started with the model that this seat began with");
        *self.lock() = seated.clone();
        failpoint::passed("reward.seated");
        Ok(Change { seated, replaced: Some(old.version), n_rejudged })
    }

    /// The file that an order names; `None` is the built-in one.
    fn find(&self, asked: Option<&str>) -> Result<Option<PathBuf>, SeatError> {
        let reward = &self.config.reward;
        let path = match asked {
            None if reward.model.is_empty() => return Ok(None),
            None => PathBuf::from(&reward.model),
            Some(_) if reward.folder.is_empty() => return Err(SeatError::NoFolder),
            Some(asked) => inside(Path::new(&reward.folder), asked).ok_or(SeatError::Outside)?,
        };
        // A FIFO, for one, would wait for its writer for ever.
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => Ok(Some(path)),
            Ok(_) => Err(SeatError::Refused("it is not a regular file".to_owned())),
            Err(error) => Err(SeatError::Refused(error.to_string())),
        }
    }

    fn read(
        &self,
        path: Option<&Path>,
        old: &RewardModel,
    ) -> Result<(Arc<RewardModel>, reward::NamedJudge), SeatError> {
        if let Some(path) = path {
            self.plan(path, old).and_then(|plan| plan.check()).map_err(refused)?;
        }
        let base = || match old.base() {
            Some(base) => Ok(base.clone()),
            None => {
                let base = Checkpoint::read(&self.sft).map_err(|error| RewardModelError::Weights(error.to_string()))?;
                let base = frozen(&base, &self.config.ppo, &Device::Cpu);
                base.map_err(|error| RewardModelError::Weights(error.to_string()))
            }
        };
        let file = path.map_or(ModelFile::BuiltIn(artefacts::REWARD), ModelFile::At);
        let combination = Combination::configured(&self.config.reward);
        let load = || model::load(file, combination, &self.vocabulary_digest, base);
        let gently: fn() = || threads::lower_priority(threads::NICE_REQUESTS);
        let pool = threads::pool("reward-seat", 1, gently).map_err(refused)?;
        // A file that makes the tensor library panic must cost an answer, not the daemon.
        match catch_unwind(AssertUnwindSafe(|| pool.install(load))) {
            Ok(loaded) => loaded.map_err(refused),
            Err(_) => Err(SeatError::Refused("reading it panicked; the log says where".to_owned())),
        }
    }

    /// Both models are in memory until the old one's last job is answered, and the new one's file beside its weights.
    fn plan(&self, path: &Path, old: &RewardModel) -> Result<MemoryPlan, ModelError> {
        let mut items = Vec::new();
        if is_adapter(&metadata_of_file(path)?) {
            let n_bytes = std::fs::metadata(path).map_or(0, |file| file.len());
            items.push(("the new reward model (an adapter)".to_owned(), n_bytes.saturating_mul(2)));
            if old.base().is_none() {
                items.push(("version 0 beside it".to_owned(), 2 * weight_bytes(&shape_of_file(&self.sft)?)));
            }
        } else {
            items.push(("the new reward model".to_owned(), 2 * weight_bytes(&shape_of_file(path)?)));
        }
        Ok(MemoryPlan { items, room: memory::machine() })
    }

    fn lock(&self) -> MutexGuard<'_, Seated> {
        // Whoever panicked had not changed it.
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(error: impl std::fmt::Display) -> SeatError {
    SeatError::Refused(error.to_string())
}

/// The file of this name, if it lies inside the folder once every link is followed.
fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let folder = folder.canonicalize().ok()?;
    folder.join(name).canonicalize().ok().filter(|path| path.starts_with(&folder))
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| elapsed.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_outside_the_folder_is_found() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("models");
        std::fs::create_dir_all(folder.join("deep")).expect("a folder");
        for file in ["a.gguf", "models/b.gguf", "models/deep/c.gguf"] {
            std::fs::write(root.path().join(file), b"x").expect("a file");
        }
        symlink(root.path().join("a.gguf"), folder.join("out")).expect("a link");
        symlink("deep/c.gguf", folder.join("in")).expect("a link");
        let outside = root.path().join("a.gguf").display().to_string();
        for bad in ["../a.gguf", &outside, "out", "deep/../../a.gguf", "none", "http://host/b.gguf", "b\0.gguf"] {
            assert_eq!(inside(&folder, bad), None, "{bad}");
        }
        for good in ["b.gguf", "deep/c.gguf", "in", "./deep/../b.gguf"] {
            assert!(inside(&folder, good).is_some(), "{good}");
        }
    }
}
