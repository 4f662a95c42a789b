//! Making a version live, whoever asks for it: an administrator, or a watched folder.

use std::{sync::Arc, time::Instant};

use policy::{PolicyVersion, engine::Engine};
use ppo::{
    Learner, Registry, RolloutLog,
    learner::LearnerError,
    publish::{PublishError, Switch},
    rollout_log::{Act, Action, Who},
};

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
    pub(crate) switch: Arc<Switch>,
}

impl Activator {
    /// With a learner through it, so that its trainer hears of it; in the same order without one: checked and in memory first,
    /// then the row, then the pointer. Blocks until the version serves. The audit log has a row of it, also when it is refused.
    ///
    /// # Errors
    /// When another version than `expected_live` is live, or this one cannot be; the live version is then what it was.
    #[expect(clippy::result_large_err, reason = "the error is the one that a switch takes, and none is made in a loop")]
    pub(crate) fn activate(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
    ) -> Result<(), LearnerError> {
        let activated = match &self.learner {
            Some(learner) => learner.activate(version, expected_live, who),
            // Beside serving, because the digest of a whole file would take half a core from the streams.
            None => {
                let load = || self.engine.beside_serving(|| self.load(version));
                self.switch.load_and_activate(version, expected_live, who, load).map(drop).map_err(LearnerError::from)
            }
        };
        activated.inspect_err(|error| self.refuse(version, who, error))
    }

    /// Notes that somebody's wish was not granted.
    pub(crate) fn refuse(&self, version: PolicyVersion, who: &Who, why: impl ToString) {
        self.log.note(Act::new(who, Action::Activate, version.to_string()).refused(why));
    }

    #[expect(clippy::result_large_err, reason = "as above")]
    fn load(&self, version: PolicyVersion) -> Result<(), PublishError> {
        let row = self.registry.verify(version)?;
        let started = Instant::now();
        self.engine.load_to_serve(version, &row.path)?;
        self.switch.counters().loads.record(started.elapsed());
        Ok(())
    }
}
