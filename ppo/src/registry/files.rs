//! The files of the versions folder: `policy-N.gguf`, and companions `policy-N.<suffix>` that share its fate.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use policy::{PolicyVersion, checkpoint, model_error::ModelError};

use super::{Registry, RegistryError};
use crate::rollout_log::{VersionChange, VersionRow, VersionState};

/// Suffix of the weights.
pub(super) const WEIGHTS: &str = "gguf";
/// Suffix of the mark of a number that was given and is not registered: whatever else has the number is half published.
///
/// It is written before them and removed after them, so that they are never there without it. Nobody syncs it: the folder's sync
/// behind the name of the weights takes with it what was named before.
pub(super) const UNREGISTERED: &str = "unregistered";

/// Where the files of versions lie in a data directory.
#[must_use]
pub fn versions_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("versions")
}

pub(super) fn name(version: PolicyVersion, suffix: &str) -> String {
    format!("policy-{}.{suffix}", version.0)
}

/// The version that a file of this name belongs to; what was left half written belongs to none.
pub(super) fn owner(name: &str) -> Option<PolicyVersion> {
    let (number, suffix) = name.strip_prefix("policy-")?.split_once('.')?;
    (!suffix.ends_with("partial")).then(|| number.parse().ok().map(PolicyVersion))?
}

/// Whether this code writes files of such a name, half-written ones included; others are somebody's own.
pub(super) fn is_ours(name: &str) -> bool {
    let number = name.strip_prefix("policy-").and_then(|rest| rest.split_once('.')).map(|(number, _)| number);
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

pub(super) fn is_mark(name: &str) -> bool {
    name.strip_suffix(UNREGISTERED).is_some_and(|start| start.ends_with('.'))
}

/// Names of the files in a folder, in order, marks last. Folders are somebody's own, whatever their names.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| {
        let entry = entry?;
        Ok(if entry.file_type()?.is_dir() { None } else { entry.file_name().into_string().ok() })
    });
    let mut names: Vec<String> = names.filter_map(io::Result::transpose).collect::<io::Result<_>>()?;
    names.sort_by(|a, b| is_mark(a).cmp(&is_mark(b)).then_with(|| a.cmp(b)));
    Ok(names)
}

/// Removes a version's files. A file that stays is an orphan, which the next open removes.
pub(super) fn remove_all_of(folder: &Path, version: PolicyVersion) {
    let removed = names(folder).and_then(|names| {
        let mut own = names.iter().filter(|name| owner(name) == Some(version));
        own.try_for_each(|name| fs::remove_file(folder.join(name)))
    });
    if let Err(error) = removed {
        tracing::warn!(%version, %error, "files of a version that is gone could not be removed");
    }
}

/// Bytes of a version's files.
pub(super) fn bytes_of(folder: &Path, version: PolicyVersion) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let own = entries.filter(|entry| entry.file_name().to_str().and_then(owner) == Some(version));
    own.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Checks a version's file against its digest.
pub(super) fn verify(row: &VersionRow) -> Result<(), RegistryError> {
    let damaged = |what: String, is_lasting| {
        let (version, path) = (row.version, row.path.clone());
        RegistryError::Damaged { version, path, what, is_lasting }
    };
    let found = checkpoint::digest(&row.path).map_err(|error| match error {
        // The path is said once already.
        ModelError::Io { source, .. } => damaged(source.to_string(), source.kind() == io::ErrorKind::NotFound),
        other => damaged(other.to_string(), true),
    })?;
    if found.to_string() == row.digest {
        return Ok(());
    }
    Err(damaged(format!("expected digest {}, found {found}", row.digest), true))
}

impl Registry {
    /// Rows that the last process left in the middle: nobody judges its candidates any more, and nothing drains.
    pub(super) fn finish_what_a_crash_began(&self) -> Result<(), RegistryError> {
        for row in self.rows()? {
            match row.state {
                VersionState::Candidate => self.give_up(row.version, "the process ended before the gate's verdict")?,
                VersionState::Draining => self.change(VersionChange::Move {
                    version: row.version,
                    from: VersionState::Draining,
                    to: VersionState::Retained,
                    reason: None,
                })?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Leaves a live version whose file is good: the live one, or else its nearest good ancestor. What was damaged on the way is
    /// given up in the same transaction: without a live version the next start would not know whose ancestors to look at.
    pub(super) fn ensure_live(&self) -> Result<(), RegistryError> {
        let rows = self.rows()?;
        let live = rows.iter().find(|row| row.state == VersionState::Live);
        // None is live where an older honed died in the middle of a repair: the newest retained version begins the search.
        let newest = rows.iter().rev().find(|row| row.state == VersionState::Retained);
        let mut at = live.or(newest).ok_or(RegistryError::NoneLive)?;
        let mut damaged = Vec::new();
        loop {
            if matches!(at.state, VersionState::Live | VersionState::Retained) {
                match verify(at) {
                    Ok(()) if at.state == VersionState::Live => return Ok(()),
                    Ok(()) => return self.replace(at.version, damaged),
                    Err(error) if at.version == PolicyVersion::SFT => return Err(error),
                    Err(error) => {
                        tracing::error!(%error, "a version is given up");
                        let what = match error {
                            // Without the path: clients read this.
                            RegistryError::Damaged { what, .. } => was_damaged(&what),
                            other => other.to_string(),
                        };
                        damaged.push((at.version, what));
                    }
                }
            }
            let parent = at.parent.ok_or(RegistryError::NoneLive)?;
            at = rows.iter().find(|row| row.version == parent).ok_or(RegistryError::Unknown(parent))?;
        }
    }

    /// Retires a version whose file was found missing or damaged while it was wanted, and removes what is left of it.
    ///
    /// # Errors
    /// When the log refuses, or it is in no state from which versions retire.
    pub fn give_up_damaged(&self, version: PolicyVersion, what: &str) -> Result<(), RegistryError> {
        let _one_at_a_time = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        let row = self.row(version)?.ok_or(RegistryError::Unknown(version))?;
        let from = if row.state == VersionState::Draining { row.state } else { VersionState::Retained };
        self.step(version, from, VersionState::Retired, Some(&was_damaged(what)))?;
        remove_all_of(&self.folder, version);
        Ok(())
    }

    fn replace(&self, version: PolicyVersion, damaged: Vec<(PolicyVersion, String)>) -> Result<(), RegistryError> {
        tracing::error!(%version, "an older version serves in place of a damaged one");
        let gone: Vec<PolicyVersion> = damaged.iter().map(|(version, _)| *version).collect();
        let why = "the file of the version that was live is missing or damaged".to_string();
        self.change(VersionChange::Replace { version, damaged, why })?;
        gone.into_iter().for_each(|version| remove_all_of(&self.folder, version));
        Ok(())
    }
}

fn was_damaged(what: &str) -> String {
    format!("it was missing or damaged: {what}")
}

/// A copy that appears whole or not at all.
pub(super) fn copy_durably(from: &Path, to: &Path) -> Result<(), RegistryError> {
    let opened = File::open(from).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (len, mut file) = opened.map_err(|source| RegistryError::io(from, source))?;
    Ok(checkpoint::copy_durably(&mut file, len, to)?)
}
