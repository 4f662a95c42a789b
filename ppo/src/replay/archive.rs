//! A data directory as replays read it: records, rollouts, weights, states. It changes nothing and takes no lock.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use policy::{
    PolicyVersion,
    checkpoint::{self, Checkpoint},
};
use reward::{Score, Scored, ScoredRollout};

use super::ReplayError;
use crate::{
    form::{self, Form},
    registry::versions_folder,
    rollout_log::{LogReader, LoggedRollout, UpdateRow},
    state::StateFolder,
};

/// A data directory, for reading.
pub struct Archive {
    reader: LogReader,
    data_dir: PathBuf,
}

impl Archive {
    /// Opens a data directory, also while a daemon writes to it.
    ///
    /// # Errors
    /// When its log cannot be opened.
    pub fn open(data_dir: &Path) -> Result<Archive, ReplayError> {
        Ok(Archive { reader: LogReader::open(data_dir)?, data_dir: data_dir.to_path_buf() })
    }

    /// The learner's states.
    #[must_use]
    pub fn states(&self) -> StateFolder {
        StateFolder::of(&self.data_dir)
    }

    /// Where version 0 lies.
    ///
    /// # Errors
    /// When the log cannot be read or has no version.
    pub fn sft(&self) -> Result<PathBuf, ReplayError> {
        let row = self.reader.version(PolicyVersion::SFT)?.ok_or(ReplayError::Nothing)?;
        Ok(self.versions().join(row.path))
    }

    /// The configuration with which the learner goes on here: rank and alpha are those of the live version.
    ///
    /// # Errors
    /// When the log or the version's file cannot be read.
    pub fn knobs(&self, config: &config::Ppo) -> Result<config::Ppo, ReplayError> {
        let live = self.reader.live_version()?.ok_or(ReplayError::Nothing)?;
        Ok(form::configured(config, self.form(live.version, config)?))
    }

    /// The form of a version; what the knobs ask for at version 0, and where the version is gone.
    pub(super) fn form(&self, version: PolicyVersion, config: &config::Ppo) -> Result<Form, ReplayError> {
        let file = self.reader.version(version)?.map(|row| self.versions().join(row.path));
        match file.filter(|file| file.exists()) {
            Some(file) => Ok(form::of_version(version, &file, &self.sft()?, config)?),
            None => Ok(form::asked(config)),
        }
    }

    /// Who judged what an update learnt from, by the versions of the scores.
    pub(super) fn judges(&self, update: u64) -> Result<String, ReplayError> {
        let used = self.reader.used_rollouts(update)?;
        let judges: BTreeSet<String> = used.into_iter().map(|used| used.score.reward_version).collect();
        Ok(judges.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// One update.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn update(&self, number: u64) -> Result<Option<UpdateRow>, ReplayError> {
        Ok(self.reader.update(number)?)
    }

    /// The newest update that ended.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn newest_update(&self) -> Result<Option<UpdateRow>, ReplayError> {
        Ok(self.reader.newest_update()?)
    }

    /// An update that has ended.
    pub(super) fn ended(&self, number: u64) -> Result<UpdateRow, ReplayError> {
        match self.update(number)? {
            None => Err(ReplayError::NoRecord(number)),
            Some(row) if row.end.is_none() => Err(ReplayError::NotEnded(number)),
            Some(row) => Ok(row),
        }
    }

    /// What an update learnt from, in its order and with its scores.
    pub(super) fn rollouts(&self, update: u64) -> Result<Vec<ScoredRollout>, ReplayError> {
        let used = self.reader.used_rollouts(update)?;
        let rows = self.reader.rollouts_of_update(update)?;
        let there: HashSet<_> = rows.iter().map(|row| row.seq).collect();
        let missing: Vec<_> = used.iter().map(|used| used.seq).filter(|seq| !there.contains(seq)).collect();
        if !missing.is_empty() {
            return Err(ReplayError::Pruned { update, n_used: used.len(), missing });
        }
        Ok(rows.into_iter().map(scored).collect())
    }

    /// The weights that an update began with, if they are still those of its record.
    pub(super) fn weights(&self, row: &UpdateRow) -> Result<Checkpoint, ReplayError> {
        let (update, version) = (row.start.number, row.start.parent);
        let gone = |why: String| ReplayError::WeightsGone { update, version, why };
        let found = self.reader.version(version)?.ok_or_else(|| gone("the version is not in the log".to_string()))?;
        let path = self.versions().join(found.path);
        let digest = checkpoint::digest(&path).map_err(|error| gone(error.to_string()))?.to_string();
        if digest != row.start.parent_digest {
            let expected = &row.start.parent_digest;
            return Err(gone(format!("{}: expected digest {expected}, found {digest}", path.display())));
        }
        Ok(Checkpoint::read(&path)?)
    }

    fn versions(&self) -> PathBuf {
        versions_folder(&self.data_dir)
    }
}

/// A row of the log as the round sees it.
pub(crate) fn scored(row: LoggedRollout) -> ScoredRollout {
    let score = row.score.expect("a row without a score cannot be claimed");
    let scored = Scored { score: Score(score.score), std: score.std, reward_version: score.reward_version };
    ScoredRollout::new(row.rollout, scored).expect("the log stores finite scores only")
}
