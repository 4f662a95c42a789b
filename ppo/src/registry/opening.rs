//! How the registry of a data directory is opened, by a daemon that has the model and by a command that has not.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use policy::PolicyVersion;

use super::{Registry, RegistryError, Retention, versions_folder};
use crate::rollout_log::{RolloutLog, Who};

impl Registry {
    /// Opens the folder `versions` of the log's data directory with `sft` as version 0, repairs what a crash left, and
    /// makes sure that the live version can be served.
    ///
    /// # Errors
    /// When `sft` cannot be read, when the folder was begun with other weights, or when the disk or the log refuses.
    pub fn open(log: RolloutLog, sft: &Path, n_kept: usize) -> Result<Registry, RegistryError> {
        Registry::adopt(log, sft, n_kept)?.open()
    }

    /// As [`Registry::open`], of a folder that has a version 0 already, by whoever does not know the model that it was begun with.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`] when version 0's file is, which only that model can repair; otherwise as [`Registry::open`].
    pub fn reopen(log: RolloutLog, n_kept: usize) -> Result<Registry, RegistryError> {
        let registry = Registry::at(log, n_kept);
        registry.verify(PolicyVersion::SFT)?;
        registry.repair()?;
        Ok(registry.on_behalf_of(&Who::learner()))
    }

    pub(super) fn at(log: RolloutLog, n_kept: usize) -> Registry {
        let folder = versions_folder(log.data_dir());
        let retention = Retention { versions: n_kept, bytes: u64::MAX };
        Registry {
            log,
            folder,
            retention,
            who: Who::start(),
            length_penalty: None,
            free: Arc::new(Mutex::new(PolicyVersion::SFT)),
            retiring: Arc::default(),
        }
    }

    pub(super) fn repair(&self) -> Result<(), RegistryError> {
        self.finish_what_a_crash_began()?;
        self.clear_up()?;
        self.ensure_live()
    }
}
