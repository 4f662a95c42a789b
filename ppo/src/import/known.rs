//! Which files are known: whose weights are there already, or were refused already.
//!
//! A GGUF's version has the file's own digest. A safetensors file is converted, so its version has another: how the file came is in
//! its row of imports, and where that is gone, the digest of what it is converted to tells. Converting is deterministic.
//!
//! What lies in a watched folder is found again at every start, and that is no news. Known weights under a name that was not theirs
//! are: whoever put them there waits for something to happen.

use policy::{PolicyVersion, checkpoint::Digest};

use super::{ImportError, Importer, Wish};
use crate::rollout_log::{ImportRow, ImportSource, VersionRow, VersionState};

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
        let known = rows.into_iter().rev().filter(|row| is_it(row) && is_known(row));
        match known.min_by_key(|row| distance_from_service(row.state)) {
            Some(VersionRow { version, state, .. }) => Err(ImportError::Known { version, state }),
            None => Ok(()),
        }
    }

    /// Whether anything came of a file that should be written down.
    pub(super) fn is_news(&self, row: &ImportRow, error: Option<&ImportError>) -> bool {
        match (error, row.source) {
            // The version's own row tells.
            (Some(ImportError::Unjudged { .. }), _) => false,
            (Some(ImportError::Known { .. }), ImportSource::Folder) => !self.was_told(row),
            // The watch tells, and tries again.
            (Some(error), ImportSource::Folder) => error.is_final(),
            _ => true,
        }
    }

    /// Whether the last that was noted of a file of this name is about these very bytes.
    fn was_told(&self, row: &ImportRow) -> bool {
        let last = self.setup.log.reader().digest_last_imported(&row.path);
        // Rather twice than never.
        last.is_ok_and(|digest| digest.is_some() && digest == row.digest)
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

/// Of several versions with the same weights the one is named with which the least is to be done.
fn distance_from_service(state: VersionState) -> u8 {
    match state {
        VersionState::Live => 0,
        VersionState::Retained | VersionState::Draining => 1,
        VersionState::Candidate => 2,
        VersionState::Rejected | VersionState::Retired => 3,
    }
}
