//! Changing who serves, in an instant: the row, then the pointer.
//!
//! Whoever wants another version live comes through here, one at a time: the learner with what it has published, an operator,
//! the watch. So the log and the engine never name two different versions, and whoever comes second finds another version live
//! than it expected. What is in memory was checked when it came there, and going back to it reads no file: milliseconds, on
//! the caller's thread at the caller's priority, whatever the learner is doing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Instant,
};

use policy::{
    PolicyVersion,
    engine::{Engine, ResidentState, ResidentStatus},
};

use super::PublishError;
use crate::{
    registry::{Registry, RegistryError},
    rollout_log::{VersionState, Who},
    stats::LearnerCounters,
};

/// What became of a wish for another live version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// It serves.
    Done,
    /// It served already; the wish is noted.
    Already,
    /// It has to be brought into memory first; nothing has changed.
    NotInMemory,
}

/// See the module.
pub struct Switch {
    engine: Engine,
    registry: Registry,
    counters: Arc<LearnerCounters>,
    turn: Mutex<()>,
}

impl Switch {
    /// Over one engine and its registry.
    #[must_use]
    pub fn new(engine: Engine, registry: Registry, counters: Arc<LearnerCounters>) -> Switch {
        Switch { engine, registry, counters, turn: Mutex::new(()) }
    }

    /// While this is held, nobody else changes who serves.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        // Nothing is guarded but the order.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody's word: this version, now, if it is in memory.
    ///
    /// # Errors
    /// When another version than `expected_live` is live, or this one cannot be; the live version is then what it was.
    pub fn activate(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
    ) -> Result<Switched, PublishError> {
        let _turn = self.turn();
        let registry = self.registry.on_behalf_of(who);
        if registry.may_activate(version, expected_live)?.state == VersionState::Live {
            // A client that makes sure, or tries again: nothing but the note that it did.
            registry.activate(version, expected_live)?;
            return Ok(Switched::Already);
        }
        let switched = self.switch(version, || registry.activate(version, expected_live).map(drop))?;
        if switched == Switched::Done {
            self.counters.activations.fetch_add(1, Ordering::Relaxed);
            tracing::info!(%version, "activated by hand");
        }
        Ok(switched)
    }

    /// The watch's word: `good` in place of `live`, whose row says why, if it is in memory.
    ///
    /// # Errors
    /// As [`Switch::activate`].
    pub fn roll_back(&self, good: PolicyVersion, live: PolicyVersion, why: &str) -> Result<Switched, PublishError> {
        let _turn = self.turn();
        let registry = self.registry.on_behalf_of(&Who::watch());
        let switched = self.switch(good, || registry.roll_back(good, live, &format!("rolled back: {why}")))?;
        if switched == Switched::Done {
            self.counters.rollbacks.fetch_add(1, Ordering::Relaxed);
        }
        Ok(switched)
    }

    fn switch(
        &self,
        version: PolicyVersion,
        row: impl FnOnce() -> Result<(), RegistryError>,
    ) -> Result<Switched, PublishError> {
        // From here on no load takes its place.
        if !self.engine.recall(version) {
            return Ok(Switched::NotInMemory);
        }
        if let Err(error) = row() {
            self.step_down(version);
            return Err(error.into());
        }
        self.promote(version)?;
        Ok(Switched::Done)
    }

    /// Serves a version that is live in the registry. The one before stays in memory until another is loaded, so that the way
    /// back is short. Whoever calls it has the turn.
    ///
    /// # Errors
    /// When the engine does not have it.
    pub(crate) fn promote(&self, version: PolicyVersion) -> Result<(), PublishError> {
        let started = Instant::now();
        let before = self.engine.promote(version)?;
        self.counters.promotions.record(started.elapsed());
        if before != version {
            self.step_down(before);
        }
        self.keep_house();
        Ok(())
    }

    fn step_down(&self, version: PolicyVersion) {
        if let Err(error) = self.engine.step_down(version) {
            tracing::warn!(%version, %error, "a version does not wait for its return");
        }
    }

    fn keep_house(&self) {
        let residents = self.engine.residents();
        let draining = |resident: &&ResidentStatus| resident.state == ResidentState::Draining;
        let in_memory: Vec<PolicyVersion> = residents.iter().map(|resident| resident.version).collect();
        let leaving: Vec<PolicyVersion> = residents.iter().filter(draining).map(|resident| resident.version).collect();
        self.registry.keep_house_of(&in_memory, &leaving);
    }
}
