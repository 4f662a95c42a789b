//! How a data directory comes by its version 0.
//!
//! Its row ties a folder to a model for good, so the row comes last: whoever opens a folder for the first time gets the copy of the
//! model, and registers it once it has shown that it serves. Until then the folder is nobody's. What fails or dies in between (a
//! model whose logits are no numbers, or one that the machine has no room for) leaves at most a copy without a row, and the next
//! start writes its own over it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use policy::{PolicyVersion, checkpoint};

use super::{Registry, RegistryError, files, versions_folder};
use crate::{
    clock::now_ms,
    rollout_log::{RolloutLog, VersionChange, VersionRow, VersionState, Who, has_log},
};

/// A data directory whose version 0 lies in its place. Dropped before it is opened, it leaves a folder that had none as it was.
#[must_use]
pub struct Adoption {
    registry: Registry,
    /// The row of a version 0 that the folder did not have.
    unregistered: Option<VersionRow>,
}

impl Adoption {
    /// Where version 0's weights lie.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.registry.path(PolicyVersion::SFT)
    }

    /// Whether the folder had no version 0 before.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.unregistered.is_some()
    }

    /// Registers a version 0 that has no row yet, repairs what a crash left, and makes sure that the live version can be served.
    ///
    /// # Errors
    /// When the disk or the log refuses.
    pub fn open(mut self) -> Result<Registry, RegistryError> {
        // Taken out whatever comes of it: a row that may have been committed keeps its file.
        if let Some(row) = self.unregistered.take() {
            self.registry.change(VersionChange::Register(row))?;
        }
        self.registry.repair()?;
        Ok(self.registry.on_behalf_of(&Who::learner()))
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        if self.is_first() {
            files::remove_all_of(&self.registry.folder, PolicyVersion::SFT);
        }
    }
}

impl Registry {
    /// Brings `sft` into the folder `versions` of the log's data directory as version 0: copied the first time; afterwards
    /// compared, and restored from `sft` when it was damaged.
    ///
    /// # Errors
    /// When `sft` cannot be read, when the folder was begun with other weights, or when the disk or the log refuses.
    pub fn adopt(log: RolloutLog, sft: &Path, n_kept: usize) -> Result<Adoption, RegistryError> {
        let registry = Registry::at(log, n_kept);
        fs::create_dir_all(&registry.folder).map_err(|source| RegistryError::io(&registry.folder, source))?;
        let digest = checkpoint::digest(sft)?.to_string();
        let Some(row) = registry.row(PolicyVersion::SFT)? else {
            check_unclaimed(&registry.folder)?;
            return registry.copied(sft, digest);
        };
        if row.digest != digest {
            let folder = registry.folder.clone();
            return Err(RegistryError::OtherModel { folder, expected: row.digest, found: digest });
        }
        if let Err(error) = files::verify(&row) {
            tracing::error!(%error, "version 0 is restored from the given model");
            files::copy_durably(sft, &row.path)?;
        }
        Ok(Adoption { registry, unregistered: None })
    }

    fn copied(self, sft: &Path, digest: String) -> Result<Adoption, RegistryError> {
        let row = VersionRow {
            version: PolicyVersion::SFT,
            parent: None,
            state: VersionState::Live,
            digest,
            path: files::name(PolicyVersion::SFT, files::WEIGHTS).into(),
            created_ms: now_ms(),
            n_rollouts: 0,
            reason: None,
            numbers: Default::default(),
        };
        // From here on whatever fails takes the copy with it.
        let adoption = Adoption { registry: self, unregistered: Some(row.clone()) };
        files::copy_durably(sft, &adoption.file())?;
        files::verify(&adoption.registry.resolve(row))?;
        Ok(adoption)
    }

    /// Refuses a data directory that has trained versions and no log. For whoever is about to make one: an empty log would answer
    /// every command from then on as if there had never been anything.
    ///
    /// # Errors
    /// [`RegistryError::Unclaimed`], or when the folder cannot be read.
    pub fn check_unclaimed(data_dir: &Path) -> Result<(), RegistryError> {
        if has_log(data_dir) { Ok(()) } else { check_unclaimed(&versions_folder(data_dir)) }
    }

    /// Takes the registration of version 0 back where nothing refers to it yet: the folder is nobody's again.
    ///
    /// # Errors
    /// When the log refuses; nothing has changed then.
    pub fn withdraw(&self) -> Result<(), RegistryError> {
        self.change(VersionChange::Withdraw)?;
        if self.row(PolicyVersion::SFT)?.is_none() {
            files::remove_all_of(&self.folder, PolicyVersion::SFT);
        }
        Ok(())
    }
}

/// Where no log knows any version, trained ones belong to a log that somebody took away, and version 0 of another model would be
/// put beside them.
fn check_unclaimed(folder: &Path) -> Result<(), RegistryError> {
    let names = match files::names(folder) {
        // What is no folder either is named by whoever needs one.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        names => names.map_err(|source| RegistryError::io(folder, source))?,
    };
    let trained = names.iter().filter_map(|name| files::owner(name)).filter(|version| *version != PolicyVersion::SFT);
    match trained.count() {
        0 => Ok(()),
        n_files => Err(RegistryError::Unclaimed { folder: folder.to_path_buf(), n_files }),
    }
}
