//! Changing who serves, in an instant: the row, then the pointer.
//!
//! Whoever wants another version live comes through here, one at a time: the learner with what it has published, an operator,
//! the watch. So the log and the engine name the same version but for a pointer that failed, which the watch's thread has
//! follow its row ([`Switch::catch_up`]), and whoever comes second finds another version live than it expected. What is in memory was checked when it came there, and going back to it reads no file: milliseconds, on
//! the caller's thread at the caller's priority, whatever the learner is doing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Instant,
};

use policy::{
    PolicyVersion,
    engine::{Engine, EngineError, Recall},
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
    /// Held while something is loaded for a wish, so that two wishes for one version load it once.
    loading: Mutex<()>,
}

impl Switch {
    /// Over one engine and its registry.
    #[must_use]
    pub fn new(engine: Engine, registry: Registry, counters: Arc<LearnerCounters>) -> Switch {
        Switch { engine, registry, counters, turn: Mutex::new(()), loading: Mutex::new(()) }
    }

    /// What was counted of all this.
    #[must_use]
    pub fn counters(&self) -> &LearnerCounters {
        &self.counters
    }

    /// Whether the engine ends: what is not in memory by then says nothing about any version.
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.engine.is_shutting_down()
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
        let is_live = registry.may_activate(version, expected_live)?.state == VersionState::Live;
        // Where only the row says so, the pointer failed the last time, and is tried again.
        if is_live && self.engine.live() == version {
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

    /// As [`Switch::activate`], where a version that is not in memory is brought there by `load`, and leaves again if the wish
    /// comes to nothing.
    ///
    /// # Errors
    /// As [`Switch::activate`], and what `load` says.
    pub fn load_and_activate(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
        load: impl FnOnce() -> Result<(), PublishError>,
    ) -> Result<Switched, PublishError> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        match self.activate(version, expected_live, who)? {
            Switched::NotInMemory => load()?,
            switched => return Ok(switched),
        }
        let switched = self.activate(version, expected_live, who).and_then(|switched| match switched {
            Switched::NotInMemory => Err(EngineError::NotResident(version).into()),
            switched => Ok(switched),
        });
        switched.inspect_err(|_| self.forget_unless_live(version))
    }

    /// The watch's word: `good` in place of `live`, whose row says why, if it is in memory. Then, before the row, it is
    /// announced.
    ///
    /// # Errors
    /// As [`Switch::activate`].
    pub fn roll_back(
        &self,
        good: PolicyVersion,
        live: PolicyVersion,
        why: &str,
        announce: impl FnOnce(),
    ) -> Result<Switched, PublishError> {
        let _turn = self.turn();
        let registry = self.registry.on_behalf_of(&Who::watch());
        // Asked first: whoever is not in memory is nobody's concern where another version is live by now.
        registry.may_activate(good, Some(live))?;
        let switched = self.switch(good, || {
            announce();
            registry.roll_back(good, live, &format!("rolled back: {why}"))
        })?;
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
        let recalled = self.engine.recall(version);
        if recalled == Recall::Absent {
            return Ok(Switched::NotInMemory);
        }
        if let Err(error) = row() {
            if recalled == Recall::Recalled {
                self.step_down(version);
            }
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
        self.registry.keep_house(&self.engine.in_memory());
        Ok(())
    }

    /// Has the engine serve what the row says is live, where a pointer failed after its row; brings it into memory first where
    /// it is not there.
    ///
    /// # Errors
    /// When it still cannot: the next look tries again.
    pub(crate) fn catch_up(&self) -> Result<Switched, PublishError> {
        let followed = self.follow_row()?;
        if followed != Switched::NotInMemory {
            return Ok(followed);
        }
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.registry.live()?.version;
        let was_there = self.engine.is_ready(live);
        if !was_there {
            // Beside serving, because the digest of a whole file would take half a core from the streams.
            self.engine.beside_serving(|| -> Result<(), PublishError> {
                let row = self.registry.verify(live)?;
                Ok(self.engine.load_to_serve(live, &row.path)?)
            })?;
        }
        let followed = self.follow_row();
        if !was_there {
            self.forget_unless_live(live);
        }
        followed
    }

    /// As [`Switch::catch_up`], for whoever comes again; whether it need not be soon.
    pub(crate) fn keep_up(&self) -> bool {
        let caught_up = self.catch_up();
        if let Err(error) = &caught_up {
            tracing::error!(%error, "the version that the log calls live does not serve yet; it is tried again");
        }
        caught_up.is_ok()
    }

    fn follow_row(&self) -> Result<Switched, PublishError> {
        // Under it nobody is between a row and its pointer.
        let _turn = self.turn();
        let live = self.registry.live()?.version;
        if self.engine.live() == live {
            return Ok(Switched::Already);
        }
        if self.engine.recall(live) == Recall::Absent {
            return Ok(Switched::NotInMemory);
        }
        self.promote(live)?;
        tracing::warn!(version = %live, "it serves now, after its row and its pointer had parted");
        Ok(Switched::Done)
    }

    fn step_down(&self, version: PolicyVersion) {
        if let Err(error) = self.engine.step_down(version) {
            tracing::warn!(%version, %error, "a version does not wait for its return");
        }
    }

    /// Lets a version leave memory again that was brought there to go live and did not: it would keep a place for nothing.
    pub(crate) fn forget_unless_live(&self, version: PolicyVersion) {
        // Where only the pointer failed, the row says that it serves, and the next attempt finds it here.
        if self.registry.live().is_ok_and(|live| live.version != version) {
            self.forget(version);
        }
    }

    /// Lets a version leave memory that nobody shall be answered from.
    pub(crate) fn forget(&self, version: PolicyVersion) {
        match self.engine.retire(version) {
            Ok(()) | Err(EngineError::NotResident(_)) => {}
            Err(error) => tracing::warn!(%version, %error, "it stays in memory, though nobody asks for it"),
        }
    }
}
