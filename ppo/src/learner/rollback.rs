//! A version that does harm goes, and learning stands still until somebody has looked.
//!
//! Where the last good version is in memory this is done on the watch's thread, at the priority of serving: it serves again
//! there and then, and a restart finds learning halted. The owner hears of it by the bell, and its trainer follows. Where that
//! version has to be read first, learning pauses at once all the same, and the owner is called to read it (`reading`). What has
//! been seen then stays seen until it has been seen to, an operator has answered it or another version is live: a later look
//! may find a good answer more and no reason any longer, and learning would stand still for nothing.

mod reading;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use policy::PolicyVersion;

use super::{
    Board,
    bell::Bell,
    halt::{Announced, HaltFile, Turn},
    watching::Breach,
};
use crate::{
    publish::{PublishError, Switch, Switched},
    registry::RegistryError,
    rollout_log::{Act, Action, LogError, RolloutLog, Who},
    sync_point,
};

/// Between two reasons to stand still.
const BEFORE: &str = ". Before that: ";
/// Between a version and why it has yet to go.
const STILL_TO_GO: &str = " has to be rolled back: ";
/// Attempts that may fail over what passes by itself before an older version is tried.
const PATIENT_ATTEMPTS: u32 = 3;

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
    /// What learning stands still for and has yet to be done, until it is, another version is live or an operator has answered.
    pending: Mutex<Option<Pending>>,
}

struct Pending {
    breach: Breach,
    /// Attempts that failed over what passes by itself.
    n_failed: u32,
}

impl Rollback {
    pub(super) fn new(switch: Switch, bell: Bell, log: RolloutLog, board: Arc<Board>) -> Rollback {
        Rollback {
            switch,
            bell,
            halt: HaltFile::of(log.data_dir()),
            log,
            board,
            unheard: Mutex::default(),
            pending: Mutex::default(),
        }
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
        // What fails by then says nothing about any version.
        if self.switch.is_shutting_down() {
            return Err(PublishError::Interrupted);
        }
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
                *lock(&self.pending) = None;
                self.board.write(|status| status.version = good);
                return switched;
            }
            None => {}
        }
        if switched.as_ref().is_err_and(is_outdated) {
            self.let_go(*live);
            return switched;
        }
        // Whoever drains by then is not in memory for that alone.
        if self.switch.is_shutting_down() {
            return Err(PublishError::Interrupted);
        }
        self.stand_still_before(breach, &turn);
        switched
    }

    /// Learning pauses although the live version is still the one that must go.
    fn stand_still_before(&self, breach: &Breach, turn: &Turn<'_>) {
        let Breach { live, good, why, .. } = breach;
        self.keep(breach);
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

    /// What has yet to be rolled back, whatever a new look would find.
    pub(super) fn pending(&self) -> Option<Breach> {
        lock(&self.pending).as_ref().map(|pending| pending.breach.clone())
    }

    fn keep(&self, breach: &Breach) {
        let mut pending = lock(&self.pending);
        if pending.as_ref().is_none_or(|pending| pending.breach.live != breach.live) {
            *pending = Some(Pending { breach: breach.clone(), n_failed: 0 });
        }
    }

    /// An attempt has failed over what passes by itself; whether the next one shall try the same version.
    pub(super) fn is_patient(&self) -> bool {
        lock(&self.pending).as_mut().is_none_or(|pending| {
            pending.n_failed += 1;
            pending.n_failed <= PATIENT_ATTEMPTS
        })
    }

    /// This version is live no longer: what was seen of it is not waited for. Of another one it is.
    fn let_go(&self, live: PolicyVersion) {
        lock(&self.pending).take_if(|pending| pending.breach.live == live);
    }

    /// Learning stands still for a version that has yet to go, and is no longer live. Returns what it stands still for now: what
    /// it did before, or what has been said since.
    pub(super) fn withdraw(&self, halted: String, version: PolicyVersion) -> Option<String> {
        let before = halted.split_once(BEFORE).map(|(_, before)| before.to_owned());
        tracing::warn!(halted, "another version is live by now: there is nothing to roll back");
        self.let_go(version);
        let turn = self.halt.turn();
        turn.withdraw(Announced::over(halted, before));
        turn.read()
    }

    fn stand_still(&self, why: &str) {
        *lock(&self.unheard) = Some(why.to_owned());
        self.log.note(Act::new(&Who::watch(), Action::Pause, None).done_with(why));
        self.board.write(|status| status.is_paused = true);
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
            *lock(&self.pending) = None;
            turn.forget();
        }
        is_answer
    }

    fn take_unheard(&self) -> Option<String> {
        lock(&self.unheard).take()
    }
}

fn lock<T>(word: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every write is one assignment.
    word.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins what is said of a rollback that has yet to come.
fn still_to_go(live: PolicyVersion) -> String {
    format!("{live}{STILL_TO_GO}")
}

/// Of which version this says that it has yet to be rolled back, if it does.
fn version_to_go(halted: &str) -> Option<PolicyVersion> {
    let (version, _) = halted.split_once(STILL_TO_GO)?;
    version.strip_prefix("policy@")?.parse().ok().map(PolicyVersion)
}

/// Whether another version is live than the one that has to go.
pub(super) fn is_outdated(error: &PublishError) -> bool {
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
