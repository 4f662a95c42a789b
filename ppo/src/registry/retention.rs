//! Which versions stay on the disk.
//!
//! Retained versions are what a rollback can go to. The newest are kept: as many as a number allows, and of these as many as a
//! number of bytes has room for. Version 0, the live version and what is in memory are not up for this, and a bound on bytes
//! does not remove the newest retained version either: a rollback by one step stays possible, whatever a version weighs. An
//! average of weights is no way back as long as nothing that is live came from it: it goes before the newest of the others.

use std::{collections::BTreeMap, sync::PoisonError};

use policy::{PolicyVersion, engine::InMemory};

use super::{Registry, RegistryError, files};
use crate::rollout_log::{LogError, RolloutLog, VersionChange, VersionRow, VersionState};

/// How much is kept beside version 0 and the live version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Versions.
    pub versions: usize,
    /// Bytes of their files, companions included.
    pub bytes: u64,
}

/// A version that is not kept any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surplus {
    /// Its number.
    pub version: PolicyVersion,
    /// Bytes that its files take.
    pub bytes: u64,
    /// Which bound it is beyond.
    pub reason: &'static str,
}

impl Registry {
    /// As [`Registry::retain`], where nobody waits for the outcome; what could not be done is told, and done the next time.
    pub fn keep_house(&self, in_memory: &[InMemory]) {
        match self.retain(in_memory) {
            // The process ends: the next one finds whatever was left.
            Ok(()) | Err(RegistryError::Log(LogError::Closed)) => {}
            Err(error) => tracing::warn!(%error, "old versions could not be retired; the next change tries again"),
        }
    }

    /// Housekeeping after a publication, an import or an activation, and when a version has left memory: what is not leaving it
    /// any more is `retained`, be it gone or waiting for its return; beyond the retention the oldest retained ones are `retired`
    /// and their files removed. Never version 0, never the live one, never one in memory.
    ///
    /// # Errors
    /// When the log refuses.
    pub fn retain(&self, in_memory: &[InMemory]) -> Result<(), RegistryError> {
        let _one_at_a_time = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        let drains = |version| in_memory.iter().any(|one| one.version == version && one.is_leaving);
        for row in self.rows()? {
            if row.state == VersionState::Draining && !drains(row.version) {
                self.step(row.version, VersionState::Draining, VersionState::Retained, None)?;
            }
        }
        let residents: Vec<PolicyVersion> = in_memory.iter().map(|one| one.version).collect();
        self.retire(&self.surplus(self.retention, &residents)?)
    }

    /// What a retention would not keep, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn surplus(&self, keep: Retention, residents: &[PolicyVersion]) -> Result<Vec<Surplus>, RegistryError> {
        Ok(self.surplus_of(&self.rows()?, keep, residents))
    }

    /// What a retention would retire in the folder of this log if no daemon had it, without a change to anything.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn would_retire(log: &RolloutLog, keep: Retention) -> Result<Vec<Surplus>, RegistryError> {
        let registry = Registry::at(log.clone(), keep.versions);
        let mut rows = registry.rows()?;
        // Nothing drains where nothing serves.
        rows.iter_mut().filter(|row| row.state == VersionState::Draining).for_each(|row| {
            row.state = VersionState::Retained;
        });
        Ok(registry.surplus_of(&rows, keep, &[]))
    }

    fn surplus_of(&self, rows: &[VersionRow], keep: Retention, residents: &[PolicyVersion]) -> Vec<Surplus> {
        let (mut n_kept, mut bytes_kept) = (0, 0_u64);
        let mut surplus = Vec::new();
        for row in wanted_first(rows) {
            let bytes = files::bytes_of(&self.folder, row.version);
            let reason = if n_kept >= keep.versions {
                "beyond ppo.keep_versions"
            } else if n_kept > 0 && bytes_kept.saturating_add(bytes) > keep.bytes {
                "beyond ppo.keep_versions_mib"
            } else {
                (n_kept, bytes_kept) = (n_kept + 1, bytes_kept.saturating_add(bytes));
                continue;
            };
            if !residents.contains(&row.version) {
                surplus.push(Surplus { version: row.version, bytes, reason });
            }
        }
        surplus.sort_by_key(|gone| gone.version);
        surplus
    }

    /// Retires versions and removes their files.
    ///
    /// # Errors
    /// When the log refuses, or one of them is not retained.
    pub fn retire(&self, surplus: &[Surplus]) -> Result<(), RegistryError> {
        for Surplus { version, reason, .. } in surplus {
            // Row first: a crash between the two leaves a file that no row wants, which the next open removes.
            self.step(*version, VersionState::Retained, VersionState::Retired, Some(reason))?;
            policy::failpoint::passed("version.removed");
            files::remove_all_of(&self.folder, *version);
        }
        Ok(())
    }

    pub(super) fn step(
        &self,
        version: PolicyVersion,
        from: VersionState,
        to: VersionState,
        reason: Option<&str>,
    ) -> Result<(), RegistryError> {
        self.change(VersionChange::Move { version, from, to, reason: reason.map(str::to_string) })
    }
}

/// Versions that may go, the most wanted first: the newest, but never an average before the newest version that a rollback could
/// go to.
fn wanted_first(rows: &[VersionRow]) -> Vec<&VersionRow> {
    let is_up = |row: &&VersionRow| row.state == VersionState::Retained && row.version != PolicyVersion::SFT;
    let mut wanted: Vec<&VersionRow> = rows.iter().rev().filter(is_up).collect();
    if wanted.first().is_some_and(|row| row.averaged().is_some()) {
        let ancestors = ancestors_of_live(rows);
        let is_way_back = |row: &&VersionRow| row.averaged().is_none() || ancestors.contains(&row.version);
        if let Some(at) = wanted.iter().position(is_way_back) {
            wanted[..=at].rotate_right(1);
        }
    }
    wanted
}

fn ancestors_of_live(rows: &[VersionRow]) -> Vec<PolicyVersion> {
    let parents: BTreeMap<PolicyVersion, PolicyVersion> =
        rows.iter().filter_map(|row| Some((row.version, row.parent?))).collect();
    let live = rows.iter().find(|row| row.state == VersionState::Live).map(|row| row.version);
    std::iter::successors(live, |version| parents.get(version).copied()).skip(1).collect()
}
