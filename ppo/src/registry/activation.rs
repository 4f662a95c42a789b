//! Which version is live: compare-and-set, forward and back.

use policy::PolicyVersion;

use super::{Registry, RegistryError, files};
use crate::rollout_log::{LogError, VersionChange, VersionRow, VersionState};

impl Registry {
    /// Whether a version could be made live now: asked before anything is read or loaded for it. What counts is the
    /// transaction of [`Registry::activate`], which asks again.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], that another version than `expected_live` is live, [`RegistryError::Retired`], or that it is
    /// in another state from which nothing goes live.
    pub fn may_activate(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
    ) -> Result<VersionRow, RegistryError> {
        let row = self.row(version)?.ok_or(RegistryError::Unknown(version))?;
        let found = self.live()?.version;
        if let Some(expected) = expected_live.filter(|expected| *expected != found) {
            return Err(LogError::LiveChanged { expected, found }.into());
        }
        match row.state {
            VersionState::Live | VersionState::Retained | VersionState::Draining => Ok(row),
            VersionState::Retired => Err(RegistryError::Retired { version, reason: row.reason.unwrap_or_default() }),
            VersionState::Candidate | VersionState::Rejected => {
                let (expected, found) = (VersionState::Retained.as_str(), row.state.as_str().to_owned());
                Err(LogError::VersionState { version, expected, found }.into())
            }
        }
    }

    /// Makes a retained or draining version live, if `expected_live` (where given) still is. Returns who was live before.
    ///
    /// # Errors
    /// When another version is live, when this one is in no state to be activated, or when its file is damaged.
    pub fn activate(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
    ) -> Result<PolicyVersion, RegistryError> {
        let before = self.live()?.version;
        self.change(VersionChange::Activate { version, expected_live, why: None })?;
        Ok(before)
    }

    /// Makes the last good version live in place of `from`, whose row says why.
    ///
    /// # Errors
    /// When another version is live, or this one is in no state to be activated.
    pub fn roll_back(&self, to: PolicyVersion, from: PolicyVersion, why: &str) -> Result<(), RegistryError> {
        self.change(VersionChange::Activate { version: to, expected_live: Some(from), why: Some(why.to_string()) })
    }

    /// Checks a version's file against its digest.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Damaged`], or that the log cannot be read.
    pub fn verify(&self, version: PolicyVersion) -> Result<VersionRow, RegistryError> {
        let row = self.row(version)?.ok_or(RegistryError::Unknown(version))?;
        files::verify(&row)?;
        Ok(row)
    }
}
