//! Which files are known: whose weights are there already, or were refused already.
//!
//! A GGUF's version has the file's own digest. A safetensors file is converted, so its version has another: how the file came is in
//! its row of imports, and where that is gone, the digest of what it is converted to tells. Converting is deterministic.

use policy::{PolicyVersion, checkpoint::Digest};

use super::{ImportError, Importer, Wish};
use crate::rollout_log::{ImportSource, VersionRow, VersionState};

impl Importer {
    /// The very same weights are not taken twice; what was refused once may be tried again by whoever asks for it, and what was
    /// never judged by the watched folder too.
    pub(super) fn check_new(&self, digest: Digest, source: ImportSource) -> Result<(), ImportError> {
        let digest = digest.to_string();
        let is_known = |row: &VersionRow| match row.state {
            VersionState::Live | VersionState::Retained | VersionState::Draining | VersionState::Candidate => true,
            VersionState::Rejected => source == ImportSource::Folder && row.has_verdict(),
            VersionState::Retired => source == ImportSource::Folder,
        };
        let came = self.setup.log.reader().versions_of_import(&digest)?;
        let rows = self.setup.registry.rows()?;
        let is_it = |row: &VersionRow| row.digest == digest || came.contains(&row.version);
        match rows.into_iter().find(|row| is_it(row) && is_known(row)) {
            Some(row) => Err(ImportError::Known(row.version)),
            None => Ok(()),
        }
    }

    /// Whether a version from the watched folder passed and was to go live, and the process ended, or something failed, first.
    pub(super) fn awaits_promotion(&self, version: PolicyVersion, wish: &Wish<'_>) -> Result<bool, ImportError> {
        if wish.source != ImportSource::Folder || wish.promote.is_none() {
            return Ok(false);
        }
        let row = self.setup.registry.row(version)?;
        let awaits = |row: VersionRow| {
            row.state == VersionState::Retained && row.numbers.contains_key(VersionRow::AWAITS_PROMOTION)
        };
        Ok(row.is_some_and(awaits))
    }
}
