//! The version registry: a folder of weight files and the rows that say what they are.
//!
//! # What it promises
//!
//! * *Version 0 is forever.* The SFT snapshot is copied into the folder once and, registered ([`Adoption`]), never changed or
//!   removed; a data directory that was begun with other weights is refused, because everything in it refers to them.
//! * *A file is visible when its row says so.* A candidate is written aside, synced, renamed (that is
//!   [`policy::checkpoint`]'s part), then registered, then judged, then made live, in that order; what a crash leaves without
//!   a row that wants it is removed at the next open. A file that is not of our leaving is kept aside (`orphans`).
//! * *There is always something good to serve.* At open the live version's file is checked against its digest. A damaged or
//!   missing one is retired, loudly, and its nearest good ancestor serves instead; version 0 is the last of them.
//! * *Bounded.* Beside version 0, the live version and what is still in memory, `ppo.keep_versions` versions stay, and of
//!   these as many as `ppo.keep_versions_mib` has room for ([`Retention`]).
//!
//! Numbers are never reused, not even of a refused candidate: a number in a client's hand means one set of weights.

mod activation;
mod adoption;
mod error;
mod files;
mod opening;
mod orphans;
mod retention;
mod services;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use policy::{PolicyVersion, checkpoint};

pub use adoption::Adoption;
pub use error::RegistryError;
pub use files::versions_folder;
pub use retention::{Retention, Surplus};

use crate::{
    clock::now_ms,
    length_penalty::LengthPenalty,
    rollout_log::{
        LogError, MadeVersion, RolloutLog, Settlement, VersionChange, VersionReport, VersionRow, VersionState, Who,
    },
};

/// The versions of one data directory. Its rows live in the log's database.
#[derive(Clone)]
pub struct Registry {
    log: RolloutLog,
    folder: PathBuf,
    retention: Retention,
    /// Whose changes the audit log will say they are.
    who: Who,
    /// What length costs where scores of versions are compared.
    length_penalty: Option<LengthPenalty>,
    /// The first number that nobody was given yet, as far as this process knows.
    free: Arc<Mutex<PolicyVersion>>,
    /// Held while old versions are retired: two who find the same ones beyond the retention would both retire them.
    retiring: Arc<Mutex<()>>,
}

/// A candidate to be registered; its file lies at [`Registry::path`] already.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its number, from [`Registry::next_version`].
    pub version: PolicyVersion,
    /// The version whose weights the update started from.
    pub parent: PolicyVersion,
    /// Digest of its file.
    pub digest: checkpoint::Digest,
    /// Rollouts that trained it.
    pub n_rollouts: u64,
}

impl Registry {
    /// The same registry, whose changes are this one's doing; without a word they are the learner's.
    #[must_use]
    pub fn on_behalf_of(&self, who: &Who) -> Registry {
        Registry { who: who.clone(), ..self.clone() }
    }

    /// The same registry, which takes off every score of a service what its length costs; without a word that is nothing.
    #[must_use]
    pub fn with_length_penalty(self, length_penalty: Option<LengthPenalty>) -> Registry {
        Registry { length_penalty, ..self }
    }

    /// The same registry, which also keeps no more bytes than this of what may be activated again.
    #[must_use]
    pub fn keeping_bytes(self, bytes: u64) -> Registry {
        Registry { retention: Retention { bytes, ..self.retention }, ..self }
    }

    /// All versions, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn rows(&self) -> Result<Vec<VersionRow>, RegistryError> {
        let rows = self.log.reader().versions()?;
        Ok(rows.into_iter().map(|row| self.resolve(row)).collect())
    }

    /// As [`Registry::rows`], each with its file and what made it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn described(&self) -> Result<Vec<MadeVersion>, RegistryError> {
        let reader = self.log.reader();
        let rows = reader.versions()?.into_iter().map(|row| self.resolve(row));
        rows.map(|row| Ok(reader.describe(row, &self.folder)?)).collect()
    }

    /// One version.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn row(&self, version: PolicyVersion) -> Result<Option<VersionRow>, RegistryError> {
        let row = self.log.reader().version(version)?;
        Ok(row.map(|row| self.resolve(row)))
    }

    /// The live version.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn live(&self) -> Result<VersionRow, RegistryError> {
        let live = self.log.reader().live_version()?;
        live.map(|row| self.resolve(row)).ok_or(RegistryError::NoneLive)
    }

    /// The data directory that it belongs to.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.log.data_dir()
    }

    /// Where a version's weights lie, or would lie.
    #[must_use]
    pub fn path(&self, version: PolicyVersion) -> PathBuf {
        self.folder.join(files::name(version, files::WEIGHTS))
    }

    /// Where what else belongs to a version lies (a learner's moments, say): removed together with its weights.
    #[must_use]
    pub fn companion(&self, version: PolicyVersion, suffix: &str) -> PathBuf {
        self.folder.join(files::name(version, suffix))
    }

    /// A number that no version has had, and that nobody else gets: what is made and what is taken in may be under way at once.
    /// A mark in the folder says so until it is registered or discarded.
    ///
    /// # Errors
    /// When the log cannot be read, or the folder cannot be written.
    pub fn next_version(&self) -> Result<PolicyVersion, RegistryError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.log.reader().newest_version()?;
        let next = newest.map_or(PolicyVersion::SFT, PolicyVersion::next).max(*free);
        let mark = self.companion(next, files::UNREGISTERED);
        File::create(&mark).map_err(|source| RegistryError::io(&mark, source))?;
        *free = next.next();
        Ok(next)
    }

    /// `version` and its ancestors up to `n_publications` back, freshest first: the versions whose rollouts are not stale.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn lineage(&self, version: PolicyVersion, n_publications: u64) -> Result<Vec<PolicyVersion>, RegistryError> {
        let mut lineage = vec![version];
        let mut at = version;
        for _ in 0..n_publications {
            let Some(parent) = self.row(at)?.and_then(|row| row.parent) else {
                break;
            };
            lineage.push(parent);
            at = parent;
        }
        Ok(lineage)
    }

    /// Registers a candidate whose file is written.
    ///
    /// # Errors
    /// When the log refuses; the file is then an orphan that the next open removes.
    pub fn register(&self, candidate: &Candidate) -> Result<(), RegistryError> {
        self.register_with(candidate, BTreeMap::new())
    }

    /// The same of a candidate of which these numbers are known before anybody judges it.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub fn register_with(&self, candidate: &Candidate, numbers: BTreeMap<String, f64>) -> Result<(), RegistryError> {
        self.change(VersionChange::Register(VersionRow {
            version: candidate.version,
            parent: Some(candidate.parent),
            state: VersionState::Candidate,
            digest: candidate.digest.to_string(),
            path: files::name(candidate.version, files::WEIGHTS).into(),
            created_ms: now_ms(),
            n_rollouts: candidate.n_rollouts,
            reason: None,
            numbers,
        }))?;
        // One that stays is removed at the next open; whoever took no number here has none.
        let _ = std::fs::remove_file(self.companion(candidate.version, files::UNREGISTERED));
        Ok(())
    }

    /// One transaction: the candidate is live, the old one drains, the update's rollouts are trained.
    ///
    /// # Errors
    /// When the log refuses; nothing has changed then.
    pub fn publish(
        &self,
        version: PolicyVersion,
        settlement: impl Into<Settlement>,
        report: impl Into<VersionReport>,
    ) -> Result<(), RegistryError> {
        self.change(VersionChange::Publish { version, settlement: settlement.into(), report: report.into() })
    }

    /// One transaction: the candidate is refused, its rollouts are settled. Its files go.
    ///
    /// # Errors
    /// When the log refuses; nothing has changed then.
    pub fn reject(
        &self,
        version: PolicyVersion,
        reason: &str,
        settlement: impl Into<Settlement>,
        numbers: BTreeMap<String, f64>,
    ) -> Result<(), RegistryError> {
        let (reason, settlement) = (reason.to_string(), settlement.into());
        self.change(VersionChange::Reject { version, reason, settlement, numbers })?;
        files::remove_all_of(&self.folder, version);
        Ok(())
    }

    /// Gives a candidate up on which there is no verdict: its judging was interrupted, or could not be done. Its files go, and its
    /// row says that there was none.
    ///
    /// # Errors
    /// When the log refuses; nothing has changed then.
    pub fn give_up(&self, version: PolicyVersion, reason: &str) -> Result<(), RegistryError> {
        self.reject(version, reason, Settlement::default(), [(VersionRow::NO_VERDICT.to_owned(), 1.0)].into())
    }

    /// Keeps a candidate that no update made: it may be activated.
    ///
    /// # Errors
    /// When the log refuses; nothing has changed then.
    pub fn keep(&self, version: PolicyVersion, report: impl Into<VersionReport>) -> Result<(), RegistryError> {
        self.change(VersionChange::Keep { version, report: report.into() })
    }

    /// Removes what was written for a number that was never registered.
    pub fn discard(&self, version: PolicyVersion) {
        files::remove_all_of(&self.folder, version);
    }

    /// Rows hold file names, so that a data directory may be moved or reached by another path.
    fn resolve(&self, row: VersionRow) -> VersionRow {
        VersionRow { path: self.folder.join(&row.path), ..row }
    }

    fn change(&self, change: VersionChange) -> Result<(), RegistryError> {
        Ok(self.log.change_version(change, &self.who)?)
    }
}
