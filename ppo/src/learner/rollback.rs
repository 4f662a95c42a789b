//! A version that does harm goes, and learning stands still until somebody has looked.
//!
//! Where the last good version is in memory this is done on the watch's thread, at the priority of serving: it serves again
//! there and then, and a restart finds learning halted. The owner hears of it by the bell, and its trainer follows. Where that
//! version has to be read first, learning pauses at once all the same, and the owner is called to read it; one that is damaged, or
//! for which there is no room, is left for the one before it, and version 0 is always in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use policy::{PolicyVersion, engine::EngineError};

use super::{
    Board, LearnerError,
    bell::Bell,
    halt::{HaltFile, Turn},
    owner::Owner,
    watching::Breach,
};
use crate::{
    publish::{Loader, PublishError, Switch, Switched},
    registry::{Registry, RegistryError},
    rollout_log::{Act, Action, LogError, RolloutLog, Who},
    sync_point,
};

/// Between two reasons to stand still.
const BEFORE: &str = ". Before that: ";

/// Carries rollbacks out.
pub(super) struct Rollback {
    /// Changes who serves.
    pub(super) switch: Switch,
    /// Tells the owner of it.
    pub(super) bell: Bell,
    /// What a restart finds of it.
    pub(super) halt: HaltFile,
    log: RolloutLog,
    board: Arc<Board>,
    /// Why learning has to stand still, as long as the owner has not heard of it.
    unheard: Mutex<Option<String>>,
}

impl Rollback {
    pub(super) fn new(switch: Switch, bell: Bell, log: RolloutLog, board: Arc<Board>) -> Rollback {
        Rollback { switch, bell, halt: HaltFile::of(log.data_dir()), log, board, unheard: Mutex::default() }
    }

    /// Rolls back if the last good version is in memory; otherwise learning pauses, and the owner is called.
    pub(super) fn at_once(&self, breach: &Breach) -> Result<Switched, PublishError> {
        let switched = self.to(breach.good, breach);
        self.bell.ring();
        switched
    }

    /// Rolls back to this version if it is in memory. Learning pauses whatever comes of it, unless another version is live by
    /// now: then there is nothing to roll back.
    fn to(&self, good: PolicyVersion, breach: &Breach) -> Result<Switched, PublishError> {
        let Breach { live, why, .. } = breach;
        // Until the owner can hear of it: an operator who resumes learning meanwhile answers what was said before.
        let turn = self.halt.turn();
        let mut announced = None;
        let switched = self.switch.roll_back(good, *live, why, || {
            let why = format!(
                "{live} was rolled back to {good}: {why}; look at `honed policies show {}`, then resume (POST \
                 /v1/training/resume)",
                live.0
            );
            announced = Some(turn.announce(with_what_was_before(why, *live, turn.read())));
        });
        match announced {
            // Where only the pointer failed, the row says that it was done.
            Some(announced) if matches!(switched, Err(PublishError::Registry(_))) => turn.withdraw(announced),
            Some(announced) => {
                sync_point::reached(self.log.data_dir(), "rolled_back");
                tracing::error!(
                    %live, %good, why,
                    "what users get became worse: the last good version serves again, and learning pauses"
                );
                self.stand_still(announced.why());
                self.board.write(|status| status.version = good);
                return switched;
            }
            None => {}
        }
        if !switched.as_ref().is_err_and(is_outdated) {
            self.stand_still_before(breach, &turn);
        }
        switched
    }

    /// Learning pauses although the live version is still the one that must go.
    fn stand_still_before(&self, breach: &Breach, turn: &Turn<'_>) {
        let Breach { live, good, why, .. } = breach;
        let halted = turn.read();
        if halted.as_ref().is_some_and(|halted| halted.starts_with(&still_to_go(*live))) {
            return;
        }
        let why =
            format!("{}{why}; look at the daemon's log, then resume (POST /v1/training/resume)", still_to_go(*live));
        tracing::error!(%live, %good, why, "what users get became worse: learning pauses; the last good version has yet to serve again");
        let announced = turn.announce(with_what_was_before(why, *live, halted));
        self.stand_still(announced.why());
    }

    fn stand_still(&self, why: &str) {
        *lock(&self.unheard) = Some(why.to_owned());
        self.log.note(Act::new(&Who::watch(), Action::Pause, None).done_with(why));
        self.board.write(|status| status.is_paused = true);
    }

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

    /// What the watch has halted learning for, as long as the owner has yet to hear of it.
    #[cfg(test)]
    pub(super) fn unheard(&self) -> Option<String> {
        lock(&self.unheard).clone()
    }

    /// An operator has resumed learning, having `seen` why it stood still then; whether that is why it stands still now. A halt
    /// that came after it stays.
    pub(super) fn answered(&self, seen: Option<&str>) -> bool {
        let turn = self.halt.turn();
        let now = turn.read();
        let is_answer = now.is_none() || now.as_deref() == seen;
        if is_answer {
            *lock(&self.unheard) = None;
            turn.forget();
        }
        is_answer
    }

    fn take_unheard(&self) -> Option<String> {
        lock(&self.unheard).take()
    }
}

fn lock(unheard: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    unheard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins what is said of a rollback that has yet to come.
fn still_to_go(live: PolicyVersion) -> String {
    format!("{live} has to be rolled back: ")
}

/// Whether another version is live than the one that has to go.
fn is_outdated(error: &PublishError) -> bool {
    matches!(error, PublishError::Registry(RegistryError::Log(LogError::LiveChanged { .. })))
}

/// What stood still for another reason still has that one; of several the first, so that the text stays short. That this rollback
/// was yet to come is no other reason.
fn with_what_was_before(why: String, live: PolicyVersion, halted: Option<String>) -> String {
    let before = halted.as_deref().and_then(|halted| halted.rsplit(BEFORE).next());
    match before.filter(|before| !before.starts_with(&still_to_go(live))) {
        Some(before) => why + BEFORE + before,
        None => why,
    }
}

impl Owner {
    /// The bell was rung: somebody else has changed who serves, or the watch has seen what only the owner can see to.
    pub(super) fn obey_bell(&mut self, loader: &Loader) {
        self.follow();
        let looked = self.watch.look().map_err(LearnerError::from);
        let obeyed = looked.and_then(|breach| breach.map_or(Ok(()), |breach| self.roll_back(&breach, loader)));
        if let Err(error) = obeyed {
            tracing::error!(%error, "the rollback failed and will be tried again");
        }
    }

    /// The last good version is read if need be, and serves again; where it cannot, the nearest before it that can.
    pub(super) fn roll_back(&mut self, breach: &Breach, loader: &Loader) -> Result<(), LearnerError> {
        // Learning pauses before anything is read.
        let mut switched = self.rollback.to(breach.good, breach);
        for good in [breach.good].into_iter().chain(breach.older.iter().copied()) {
            if !matches!(switched, Ok(Switched::NotInMemory)) {
                break;
            }
            switched = self.roll_back_to(good, breach, loader);
        }
        self.hear_of_rollback();
        self.follow();
        match switched? {
            Switched::NotInMemory => Err(PublishError::Engine(EngineError::NotResident(breach.good)).into()),
            Switched::Done | Switched::Already => Ok(()),
        }
    }

    /// [`Switched::NotInMemory`] where this version cannot serve.
    fn roll_back_to(&self, good: PolicyVersion, breach: &Breach, loader: &Loader) -> Result<Switched, PublishError> {
        let was_there = self.setup.engine.is_ready(good);
        if !was_there {
            let registry = &self.setup.registry;
            let verified = registry.verify(good).map_err(PublishError::from);
            if let Err(error) = verified.and_then(|_| self.publisher(loader).load_to_serve(good)) {
                self.rollback.note_unusable(good, &error, registry);
                return Ok(Switched::NotInMemory);
            }
        }
        let switched = self.rollback.to(good, breach);
        if !was_there && switched.is_err() {
            self.rollback.switch.forget_unless_live(good);
        }
        switched
    }

    pub(super) fn hear_of_rollback(&mut self) {
        if let Some(why) = self.rollback.take_unheard() {
            self.stand_still_for(why);
            self.stand_still();
        }
    }
}
