//! A version that does harm goes, and learning stands still until somebody has looked.
//!
//! Where the last good version is in memory this is done on the watch's thread, at the priority of serving: it serves again
//! there and then, and a restart finds learning halted. The owner hears of it by the bell, and its trainer follows. Where that
//! version has to be read first, the owner is called to do it.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Board, LearnerError, bell::Bell, halt, owner::Owner, watching::Breach};
use crate::{
    publish::{Loader, PublishError, Switch, Switched},
    rollout_log::{Act, Action, RolloutLog, Who},
};

/// Between two reasons to stand still.
const BEFORE: &str = ". Before that: ";

/// Carries rollbacks out.
pub(super) struct Rollback {
    /// Changes who serves.
    pub(super) switch: Switch,
    /// Tells the owner of it.
    pub(super) bell: Bell,
    log: RolloutLog,
    board: Arc<Board>,
    /// Why learning has to stand still, as long as the owner has not heard of it.
    unheard: Mutex<Option<String>>,
}

impl Rollback {
    pub(super) fn new(switch: Switch, bell: Bell, log: RolloutLog, board: Arc<Board>) -> Rollback {
        Rollback { switch, bell, log, board, unheard: Mutex::default() }
    }

    /// Rolls back if the last good version is in memory; otherwise nothing has changed but that the owner is called.
    pub(super) fn at_once(&self, breach: &Breach) -> Result<Switched, PublishError> {
        let Breach { live, good, why } = breach;
        let switched = self.switch.roll_back(*good, *live, why)?;
        if switched == Switched::Done {
            tracing::error!(
                %live, %good, why,
                "what users get became worse: the last good version serves again, and learning pauses"
            );
            let why = format!(
                "{live} was rolled back to {good}: {why}; look at `honed policies show {}`, then resume (POST \
                 /v1/training/resume)",
                live.0
            );
            self.halt(with_what_was_before(why, halt::read(self.log.data_dir())));
            self.board.write(|status| (status.is_paused, status.version) = (true, *good));
        }
        self.bell.ring();
        Ok(switched)
    }

    fn halt(&self, why: String) {
        halt::write(self.log.data_dir(), &why);
        self.log.note(Act::new(&Who::watch(), Action::Pause, None).done_with(&why));
        *self.unheard.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Whoever answers what everybody can see takes it from the owner, who has yet to hear of it.
    pub(super) fn take_unheard(&self) -> Option<String> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
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
        if !self.setup.engine.is_ready(breach.good) {
            self.setup.registry.verify(breach.good)?;
            self.publisher(loader).load(breach.good)?;
        }
        self.rollback.at_once(breach)?;
        self.hear_of_rollback();
        self.follow();
        Ok(())
    }

    pub(super) fn hear_of_rollback(&mut self) {
        if let Some(why) = self.rollback.take_unheard() {
            // A resumption that was asked for before the rollback, and obeyed after it, has removed it from the disk.
            halt::write(self.setup.log.data_dir(), &why);
            self.stand_still_for(why);
            self.stand_still();
        }
    }
}
