//! When the learner's state is written, and that it is.
//!
//! Writing takes its time: six times the policy in f32. It may take a twentieth of the learner's time, but happens at least
//! every `ppo.state_every` updates, because a restart computes again what was not written; at pause and shutdown it makes up
//! for what was left out. It comes after the commit: a crash between the two costs one update computed again, and a failure
//! of the disk costs no publication.
//!
//! Its turn comes at once where what a restart would compute from may go: the weights that the learner went over to, which are
//! retired some day, and the rollouts of a user who was forgotten.

use std::time::{Duration, Instant};

use super::{owner::Owner, trainer::Trainer};
use crate::{
    rollout_log::Start,
    state::{StateFolder, StateHead},
};

/// Writing the state may take this share of the time, 1/N.
const SHARE: u32 = 20;

/// What is on disk of the state.
pub(super) struct Saving {
    pub(super) folder: StateFolder,
    /// `ppo.state_every`.
    pub(super) every: u64,
    /// `ppo.keep_states`.
    pub(super) n_kept: usize,
    last: Option<Instant>,
    took: Duration,
    /// What the newest file holds, or where counting began.
    newest: Newest,
}

enum Newest {
    File { update: u64, fingerprint: Option<String> },
    None { since: u64 },
}

impl Saving {
    /// `saved`: the newest file on the way to the state of update `now`.
    pub(super) fn new(config: &config::Ppo, folder: StateFolder, saved: Option<u64>, now: &StateHead) -> Saving {
        let newest = match saved {
            Some(update) if update == now.update => {
                let fingerprint = (now.start != Start::Fresh).then(|| now.fingerprint.clone());
                Newest::File { update, fingerprint }
            }
            Some(update) => Newest::File { update, fingerprint: None },
            None => Newest::None { since: now.update },
        };
        let (every, n_kept) = (config.state_every, config.keep_states);
        Saving { folder, every, n_kept, last: None, took: Duration::ZERO, newest }
    }

    fn is_due(&self, update: u64) -> bool {
        let (Newest::File { update: saved, .. } | Newest::None { since: saved }) = self.newest;
        let is_cheap = self.last.is_none_or(|last| last.elapsed() > self.took * SHARE);
        is_cheap || update >= saved + self.every
    }

    fn holds(&self, head: &StateHead) -> bool {
        matches!(&self.newest, Newest::File { fingerprint: Some(found), .. } if *found == head.fingerprint)
    }
}

impl Owner {
    /// Writes what a restart needs, if it is not written.
    pub(super) fn save(&mut self) {
        if let Some(trainer) = &mut self.trainer {
            trainer.save();
        }
    }

    /// The same, if rollouts that updates used have been removed since the last look.
    pub(super) fn save_if_bereft(&mut self) {
        let n_removals = self.setup.log.n_removals();
        if std::mem::replace(&mut self.n_removals, n_removals) != n_removals {
            self.save();
        }
    }
}

impl Trainer {
    /// Writes the state if its turn has come.
    pub(super) fn save_if_due(&mut self) {
        if self.saving.is_due(self.head.update) {
            self.save();
        }
    }

    /// Writes the state unless it is there. One that can be made from a version's file alone is not worth a file.
    pub(super) fn save(&mut self) {
        if self.head.start == Start::Fresh || self.saving.holds(&self.head) {
            return;
        }
        let started = Instant::now();
        let update = self.head.update;
        if let Err(error) = self.saving.folder.file(update).write(&self.models, &self.head) {
            // The updates since the last one will be computed again, no more.
            tracing::warn!(update, %error, "the learner's state could not be saved");
            return;
        }
        let saving = &mut self.saving;
        saving.folder.prune(saving.n_kept, self.streak.first());
        (saving.last, saving.took) = (Some(Instant::now()), started.elapsed());
        saving.newest = Newest::File { update, fingerprint: Some(self.head.fingerprint.clone()) };
    }
}
