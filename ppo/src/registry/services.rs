//! What is known of a version's services: since when it is live, and what users got from it.

use policy::PolicyVersion;

use super::{Registry, RegistryError};
use crate::{
    rollout_log::{Sample, Seq},
    watch::Service,
};

impl Registry {
    /// Where the log ends now.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn newest_rollout(&self) -> Result<Seq, RegistryError> {
        Ok(self.log.reader().newest_seq()?)
    }

    /// Where the log ended when a version went live, the last time that it did; 0 when that is not known.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn live_since(&self, version: PolicyVersion) -> Result<Seq, RegistryError> {
        Ok(self.log.reader().live_since(version)?)
    }

    /// Whether a version is live because the watch went back to it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn is_live_by_rollback(&self, version: PolicyVersion) -> Result<bool, RegistryError> {
        Ok(self.log.reader().is_live_by_rollback(version)?)
    }

    /// Of a version's last exchanges, `window` at most, those that were drawn to an end, whoever asked.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn n_answers(&self, version: PolicyVersion, window: usize) -> Result<usize, RegistryError> {
        Ok(self.log.reader().n_answers(version, window)?)
    }

    /// What users got from a version: its first answers after `start`, `limit` of each kind.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn service(&self, version: PolicyVersion, start: Seq, limit: usize) -> Result<Service, RegistryError> {
        Ok(self.log.reader().service(version, start, self.sample(limit))?)
    }

    /// What users got from a version lately: its last answers, `limit` of each kind.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn last_service(&self, version: PolicyVersion, limit: usize) -> Result<Service, RegistryError> {
        Ok(self.log.reader().last_service(version, self.sample(limit))?)
    }

    /// The scores alone of [`Registry::service`].
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn scores(&self, version: PolicyVersion, start: Seq, limit: usize) -> Result<Vec<f64>, RegistryError> {
        Ok(self.log.reader().scores(version, start, self.sample(limit))?)
    }

    fn sample(&self, limit: usize) -> Sample<'_> {
        Sample { limit, quarantine: self.log.quarantine(), length_penalty: self.length_penalty }
    }
}
