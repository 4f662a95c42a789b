//! The files of the versions folder: `policy-N.gguf`, and companions `policy-N.<suffix>` that share its fate.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use policy::{PolicyVersion, checkpoint, model_error::ModelError};

use super::{Registry, RegistryError};
use crate::clock::now_ms;
use crate::rollout_log::{VersionChange, VersionRow, VersionState};

/// Suffix of the weights.
pub(super) const WEIGHTS: &str = "gguf";

pub(super) fn name(version: PolicyVersion, suffix: &str) -> String {
    format!("policy-{}.{suffix}", version.0)
}

/// The version that a file of this name belongs to; what was left half written belongs to none.
fn owner(name: &str) -> Option<PolicyVersion> {
    let (number, suffix) = name.strip_prefix("policy-")?.split_once('.')?;
    (!suffix.ends_with("partial")).then(|| number.parse().ok().map(PolicyVersion))?
}

/// Whether this code writes files of such a name, half-written ones included; others are somebody's own.
fn is_ours(name: &str) -> bool {
    let number = name.strip_prefix("policy-").and_then(|rest| rest.split_once('.')).map(|(number, _)| number);
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// Removes a version's files. A file that stays is an orphan, which the next open removes.
pub(super) fn remove_all_of(folder: &Path, version: PolicyVersion) {
    let removed = remove_where(folder, |name| owner(name) == Some(version));
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

fn remove_where(folder: &Path, goes: impl Fn(&str) -> bool) -> io::Result<usize> {
    let mut n_removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&goes) {
            fs::remove_file(entry.path())?;
            n_removed += 1;
        }
    }
    Ok(n_removed)
}

/// Checks a version's file against its digest.
pub(super) fn verify(row: &VersionRow) -> Result<(), RegistryError> {
    let damaged = |what: String| RegistryError::Damaged { version: row.version, path: row.path.clone(), what };
    let found = checkpoint::digest(&row.path).map_err(|error| {
        damaged(match error {
            // The path is said once already.
            ModelError::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        })
    })?;
    if found.to_string() == row.digest {
        return Ok(());
    }
    Err(damaged(format!("expected digest {}, found {found}", row.digest)))
}

impl Registry {
    /// Version 0: copied and registered the first time; afterwards compared, and restored from `sft` when it was damaged.
    pub(super) fn adopt_sft(&self, sft: &Path) -> Result<(), RegistryError> {
        let digest = checkpoint::digest(sft)?.to_string();
        let row = self.row(PolicyVersion::SFT)?;
        if let Some(row) = row {
            if row.digest != digest {
                return Err(RegistryError::OtherModel {
                    folder: self.folder.clone(),
                    expected: row.digest,
                    found: digest,
                });
            }
            if let Err(error) = verify(&row) {
                tracing::error!(%error, "version 0 is restored from the given model");
                copy_durably(sft, &row.path)?;
            }
            return Ok(());
        }
        self.check_unclaimed()?;
        let path = self.path(PolicyVersion::SFT);
        copy_durably(sft, &path)?;
        let row = VersionRow {
            version: PolicyVersion::SFT,
            parent: None,
            state: VersionState::Live,
            digest,
            path: name(PolicyVersion::SFT, WEIGHTS).into(),
            created_ms: now_ms(),
            n_rollouts: 0,
            reason: None,
            numbers: Default::default(),
        };
        verify(&self.resolve(row.clone()))?;
        self.change(VersionChange::Register(row))
    }

    /// A log without a version was just made; trained versions beside it belong to one that somebody took away, and without
    /// its rows they would be removed as nobody's.
    fn check_unclaimed(&self) -> Result<(), RegistryError> {
        let entries = fs::read_dir(&self.folder).map_err(|source| RegistryError::io(&self.folder, source))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        match names.filter_map(|name| owner(&name)).filter(|version| *version != PolicyVersion::SFT).count() {
            0 => Ok(()),
            n_files => Err(RegistryError::Unclaimed { folder: self.folder.clone(), n_files }),
        }
    }

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

    /// Removes files that no row wants: half-written ones, unregistered candidates, what was retired in a crash.
    pub(super) fn remove_orphans(&self) -> Result<(), RegistryError> {
        let wanted: Vec<PolicyVersion> = self
            .rows()?
            .into_iter()
            .filter(|row| matches!(row.state, VersionState::Live | VersionState::Retained))
            .map(|row| row.version)
            .collect();
        let orphan = |name: &str| is_ours(name) && !owner(name).is_some_and(|owner| wanted.contains(&owner));
        let n_removed = remove_where(&self.folder, orphan).map_err(|source| RegistryError::io(&self.folder, source))?;
        if n_removed > 0 {
            tracing::warn!(n_removed, "removed files of versions that were never published or are retired");
        }
        Ok(())
    }

    /// Leaves a live version whose file is good: the live one, or else its nearest good ancestor.
    pub(super) fn ensure_live(&self) -> Result<(), RegistryError> {
        let rows = self.rows()?;
        let live = rows.iter().find(|row| row.state == VersionState::Live);
        // Without a live row a crash hit the very repair below: the newest retained version begins the search.
        let newest = rows.iter().rev().find(|row| row.state == VersionState::Retained);
        let mut at = live.or(newest).ok_or(RegistryError::NoneLive)?;
        loop {
            let usable = matches!(at.state, VersionState::Live | VersionState::Retained);
            match verify(at) {
                Ok(()) if at.state == VersionState::Live => return Ok(()),
                Ok(()) if usable => {
                    tracing::error!(version = %at.version, "an older version serves in place of a damaged one");
                    return self.change(VersionChange::Activate {
                        version: at.version,
                        expected_live: None,
                        why: Some("the file of the version that was live is missing or damaged".to_string()),
                    });
                }
                Ok(()) => {}
                Err(error) if usable && at.version != PolicyVersion::SFT => {
                    tracing::error!(%error, "a version is given up");
                    let what = match error {
                        // Without the path: clients read this.
                        RegistryError::Damaged { what, .. } => format!("it was missing or damaged: {what}"),
                        other => other.to_string(),
                    };
                    self.change(VersionChange::Move {
                        version: at.version,
                        from: at.state,
                        to: VersionState::Retired,
                        reason: Some(what),
                    })?;
                    remove_all_of(&self.folder, at.version);
                }
                Err(error) if at.version == PolicyVersion::SFT => return Err(error),
                Err(_) => {}
            }
            let parent = at.parent.ok_or(RegistryError::NoneLive)?;
            at = rows.iter().find(|row| row.version == parent).ok_or(RegistryError::Unknown(parent))?;
        }
    }
}

/// A copy that appears whole or not at all.
fn copy_durably(from: &Path, to: &Path) -> Result<(), RegistryError> {
    let opened = File::open(from).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (len, mut file) = opened.map_err(|source| RegistryError::io(from, source))?;
    Ok(checkpoint::copy_durably(&mut file, len, to)?)
}
