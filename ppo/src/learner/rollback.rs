//! A version that does harm goes, and learning stands still until somebody has looked.
//!
//! Where the last good version is in memory this is done on the watch's thread, at the priority of serving: it serves again
//! there and then, and a restart finds learning halted. The owner hears of it by the bell, and its trainer follows. Where that
//! version has to be read first, the owner is called to do it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use policy::PolicyVersion;

use super::{Board, LearnerError, bell::Bell, halt::HaltFile, owner::Owner, watching::Breach};
use crate::{
    publish::{Loader, PublishError, Switch, Switched},
    rollout_log::{Act, Action, RolloutLog, Who},
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

    /// Rolls back if the last good version is in memory; otherwise nothing has changed but that the owner is called.
    pub(super) fn at_once(&self, breach: &Breach) -> Result<Switched, PublishError> {
        let Breach { live, good, why } = breach;
        // Until the owner can hear of it: an operator who resumes learning meanwhile answers what was said before.
        let turn = self.halt.turn();
        let mut announced = None;
        let switched = self.switch.roll_back(*good, *live, why, || {
            let why = format!(
                "{live} was rolled back to {good}: {why}; look at `honed policies show {}`, then resume (POST \
                 /v1/training/resume)",
                live.0
            );
            announced = Some(turn.announce(with_what_was_before(why, turn.read())));
        });
        if let Some(announced) = announced {
            // Where only the pointer failed, the row says that it was done.
            if matches!(switched, Err(PublishError::Registry(_))) {
                turn.withdraw(announced);
            } else {
                sync_point::reached(self.log.data_dir(), "rolled_back");
                tracing::error!(
                    %live, %good, why,
                    "what users get became worse: the last good version serves again, and learning pauses"
                );
                self.stand_still(announced.why(), *good);
            }
        }
        drop(turn);
        self.bell.ring();
        switched
    }

    fn stand_still(&self, why: &str, good: PolicyVersion) {
        *lock(&self.unheard) = Some(why.to_owned());
        self.log.note(Act::new(&Who::watch(), Action::Pause, None).done_with(why));
        self.board.write(|status| (status.is_paused, status.version) = (true, good));
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

/// What stood still for another reason still has that one; of several the first, so that the text stays short.
fn with_what_was_before(why: String, halted: Option<String>) -> String {
    match halted.as_deref().and_then(|halted| halted.rsplit(BEFORE).next()) {
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

    /// The last good version is read if need be, and serves again.
    pub(super) fn roll_back(&mut self, breach: &Breach, loader: &Loader) -> Result<(), LearnerError> {
        let was_there = self.setup.engine.is_ready(breach.good);
        if !was_there {
            self.setup.registry.verify(breach.good)?;
            self.publisher(loader).load_to_serve(breach.good)?;
        }
        let switched = self.rollback.at_once(breach);
        if !was_there && switched.is_err() {
            self.rollback.switch.forget_unless_live(breach.good);
        }
        self.hear_of_rollback();
        self.follow();
        switched?;
        Ok(())
    }

    pub(super) fn hear_of_rollback(&mut self) {
        if let Some(why) = self.rollback.take_unheard() {
            self.stand_still_for(why);
            self.stand_still();
        }
    }
}
