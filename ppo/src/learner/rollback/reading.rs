//! The owner's part of a rollback: the last good version is read, or the nearest before it that can serve.
//!
//! One that is damaged, or no model, is left for the one before it at once. What passes by itself is waited for: a lack of room,
//! of threads or of handles fails this attempt, and only where it lasts does an older version serve in its place. Version 0 is
//! always in memory.

use policy::{PolicyVersion, engine::EngineError};

use super::{Rollback, is_outdated, version_to_go};
use crate::{
    learner::{LearnerError, owner::Owner, watching::Breach},
    publish::{Loader, PublishError, Switched},
    registry::{Registry, RegistryError},
    rollout_log::{Act, Action, LogError, Who},
};

impl Rollback {
    /// A version that was to serve again cannot. What is wrong with its file stays wrong: nobody shall ask for it again.
    fn note_unusable(&self, version: PolicyVersion, error: &PublishError, registry: &Registry) {
        tracing::error!(%version, %error, "it cannot serve again, and an older version is tried");
        let retired = match error {
            PublishError::Registry(RegistryError::Damaged { what, is_lasting: true, .. }) => {
                registry.on_behalf_of(&Who::watch()).give_up_damaged(version, what)
            }
            _ => {
                self.log.note(Act::new(&Who::watch(), Action::Rollback, version.to_string()).refused(error));
                Ok(())
            }
        };
        if let Err(error) = retired {
            tracing::error!(%version, %error, "a damaged version could not be given up");
        }
    }
}

/// Whether no attempt to have this version live can end otherwise.
fn cannot_be_live(error: &PublishError) -> bool {
    use RegistryError::{Log, Retired, Unknown};
    let PublishError::Registry(error) = error else { return false };
    matches!(error, Unknown(_) | Retired { .. } | Log(LogError::VersionState { .. }))
}

/// Whether it may be otherwise the next time.
fn passes_by_itself(error: &PublishError) -> bool {
    match error {
        PublishError::Registry(RegistryError::Damaged { is_lasting, .. }) => !is_lasting,
        PublishError::Registry(RegistryError::Log(_) | RegistryError::Io { .. }) => true,
        PublishError::Engine(EngineError::Thread(..)) => true,
        error => error.lacks_room(),
    }
}

impl Owner {
    /// What has to be rolled back: what was seen and has yet to be seen to comes before another look.
    pub(in crate::learner) fn breach(&self) -> Result<Option<Breach>, RegistryError> {
        match self.rollback.pending() {
            Some(breach) => Ok(Some(breach)),
            None => self.watch.look(),
        }
    }

    /// The bell was rung: somebody else has changed who serves, or the watch has seen what only the owner can see to.
    pub(in crate::learner) fn obey_bell(&mut self, loader: &Loader) {
        self.follow();
        let looked = self.breach().map_err(LearnerError::from);
        let obeyed = looked.and_then(|breach| breach.map_or(Ok(()), |breach| self.roll_back(&breach, loader)));
        if let Err(error) = obeyed
            && !self.setup.engine.is_shutting_down()
        {
            tracing::error!(%error, "the rollback failed and will be tried again");
        }
    }

    /// The last good version is read if need be, and serves again; where it cannot, the nearest before it that can.
    pub(in crate::learner) fn roll_back(&mut self, breach: &Breach, loader: &Loader) -> Result<(), LearnerError> {
        // Learning pauses before anything is read.
        let mut switched = self.rollback.to(breach.good, breach);
        for good in [breach.good].into_iter().chain(breach.older.iter().copied()) {
            let is_another_tried = match &switched {
                Ok(switched) => *switched == Switched::NotInMemory,
                Err(error) => cannot_be_live(error),
            };
            if !is_another_tried {
                break;
            }
            switched = self.roll_back_to(good, breach, loader);
        }
        self.hear_of_rollback();
        self.follow();
        match switched {
            Ok(Switched::NotInMemory) => Err(PublishError::Engine(EngineError::NotResident(breach.good)).into()),
            Ok(Switched::Done | Switched::Already) => Ok(()),
            // Somebody else has seen to it.
            Err(error) if is_outdated(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// [`Switched::NotInMemory`] where this version cannot serve.
    fn roll_back_to(&self, good: PolicyVersion, breach: &Breach, loader: &Loader) -> Result<Switched, PublishError> {
        let engine = &self.setup.engine;
        let was_there = engine.is_ready(good);
        // Somebody else may have brought it there by the time that this fails.
        if !was_there
            && let Err(error) = self.read(good, breach, loader)
            && !engine.is_ready(good)
        {
            if engine.is_shutting_down() {
                return Err(PublishError::Interrupted);
            }
            if cannot_be_live(&error) || is_outdated(&error) || (passes_by_itself(&error) && self.rollback.is_patient())
            {
                return Err(error);
            }
            self.rollback.note_unusable(good, &error, &self.setup.registry);
            return Ok(Switched::NotInMemory);
        }
        let switched = self.rollback.to(good, breach);
        if !was_there && switched.is_err() {
            self.rollback.switch.forget_unless_live(good);
        }
        switched
    }

    /// Checks a version and brings it into memory, if it may be live.
    fn read(&self, good: PolicyVersion, breach: &Breach, loader: &Loader) -> Result<(), PublishError> {
        let registry = &self.setup.registry;
        registry.may_activate(good, Some(breach.live))?;
        registry.verify(good)?;
        self.publisher(loader).load_to_serve(good)
    }

    /// What the watch has halted learning for, and what it halts it for no longer.
    pub(in crate::learner) fn hear_of_rollback(&mut self) {
        if let Some(why) = self.rollback.take_unheard() {
            self.stand_still_for(why);
            self.stand_still();
        }
        let Some(version) = self.halted.as_deref().and_then(version_to_go) else { return };
        if self.has_left(version)
            && let Some(halted) = self.halted.take()
        {
            self.halted = self.rollback.withdraw(halted, version);
            // Whoever asked for a single step asked for it while this stood still.
            self.is_stepping = false;
            if !self.stands_still() {
                let why = format!("{version} is no longer live");
                self.setup.log.note(Act::new(&Who::watch(), Action::Resume, None).done_with(why));
            }
            self.show_pause();
        }
    }

    /// Whether neither this version is live nor one that was learnt from it: its child may be as bad, and is held against nobody else.
    fn has_left(&self, version: PolicyVersion) -> bool {
        let registry = &self.setup.registry;
        let lineage = registry.live().and_then(|live| registry.lineage(live.version, u64::MAX));
        lineage.is_ok_and(|lineage| !lineage.contains(&version))
    }
}
