//! Making a version live, whoever asks for it: an administrator, or a watched folder.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Instant,
};

use policy::{
    PolicyVersion,
    engine::{Engine, ResidentState},
};
use ppo::{
    Learner, Registry, RolloutLog,
    learner::LearnerError,
    publish::PublishError,
    rollout_log::{Act, Action, Who},
    stats::{LearnerCounters, LearnerCountersSnapshot},
};

/// What all activations of a daemon without a learner share.
#[derive(Default)]
pub(crate) struct Switching {
    /// Held over an activation: two that cross would leave the log with one live version and the engine with the other.
    turn: Mutex<()>,
    /// What a learner would have counted of them.
    counters: LearnerCounters,
}

impl Switching {
    /// What was counted.
    pub(crate) fn counters(&self) -> LearnerCountersSnapshot {
        self.counters.snapshot()
    }
}

/// What it takes.
#[derive(Clone)]
pub(crate) struct Activator {
    pub(crate) engine: Engine,
    pub(crate) registry: Registry,
    /// Where refusals are noted.
    pub(crate) log: RolloutLog,
    /// Where somebody learns.
    pub(crate) learner: Option<Learner>,
    /// Where nobody does.
    pub(crate) switching: Arc<Switching>,
}

impl Activator {
    /// With a learner, through its queue: only so its trainer and the live version stay the same. Without one, in its order:
    /// checked and in memory first, then the row, then the pointer. Blocks until the version serves. The audit log has a row of
    /// it, also when it is refused.
    ///
    /// # Errors
    /// When another version than `expected_live` is live, or this one cannot be; the live version is then what it was.
    pub(crate) fn activate(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
    ) -> Result<(), LearnerError> {
        let activated = match &self.learner {
            Some(learner) => learner.activate(version, expected_live, who),
            None => self.switch(version, expected_live, who),
        };
        activated.inspect_err(|error| self.refuse(version, who, error))
    }

    /// Notes that somebody's wish was not granted.
    pub(crate) fn refuse(&self, version: PolicyVersion, who: &Who, why: impl ToString) {
        self.log.note(Act::new(who, Action::Activate, version.to_string()).refused(why));
    }

    fn switch(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
    ) -> Result<(), LearnerError> {
        let _one_at_a_time = self.switching.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry.on_behalf_of(who);
        // Before anything is read or loaded; the transaction below asks again.
        registry.may_activate(version, expected_live)?;
        // A version in memory stays there from now on.
        let was_ready = self.engine.recall(version);
        // What is in memory was checked when it came there: going back to it takes milliseconds.
        if !was_ready {
            // Beside serving, because the digest of a whole file would take half a core from the streams.
            self.engine.beside_serving(|| self.load(version))?;
        }
        let before = registry.activate(version, expected_live).inspect_err(|_| match was_ready {
            true => self.step_down(version),
            false => self.forget(version),
        })?;
        let counters = &self.switching.counters;
        let started = Instant::now();
        self.engine.promote(version).map_err(PublishError::from)?;
        if before != version {
            counters.promotions.record(started.elapsed());
            counters.activations.fetch_add(1, Ordering::Relaxed);
        }
        if before != version {
            self.step_down(before);
        }
        let residents = self.engine.residents();
        let leaving = residents.iter().filter(|resident| resident.state == ResidentState::Draining);
        let leaving: Vec<_> = leaving.map(|resident| resident.version).collect();
        let residents: Vec<_> = residents.iter().map(|resident| resident.version).collect();
        self.registry.keep_house_of(&residents, &leaving);
        Ok(())
    }

    /// It stays in memory until another is loaded, so that the way back is short.
    fn step_down(&self, version: PolicyVersion) {
        // The live version was asked for again, and stays what it is.
        if version != self.engine.live()
            && let Err(error) = self.engine.step_down(version)
        {
            tracing::warn!(%version, %error, "a version does not wait for its return");
        }
    }

    /// What was loaded for an activation that came to nothing leaves memory again.
    fn forget(&self, version: PolicyVersion) {
        if let Err(error) = self.engine.retire(version) {
            tracing::warn!(%version, %error, "it could not be activated, and stays in memory");
        }
    }

    fn load(&self, version: PolicyVersion) -> Result<(), LearnerError> {
        let row = self.registry.verify(version)?;
        let started = Instant::now();
        self.engine.load(version, &row.path).map_err(PublishError::from)?;
        self.switching.counters.loads.record(started.elapsed());
        Ok(())
    }
}
