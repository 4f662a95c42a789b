//! An operator's word: this version, now. Rollback is this.

use std::sync::atomic::Ordering;

use policy::PolicyVersion;

use super::{LearnerError, owner::Owner};
use crate::{
    publish::Loader,
    rollout_log::{VersionRow, VersionState, Who},
};

impl Owner {
    /// Asked for what can be known at once, checked and in memory first, then the row, then the pointer; then the trainer follows.
    pub(super) fn activate(
        &mut self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
        loader: &Loader,
    ) -> Result<(), LearnerError> {
        let registry = self.setup.registry.on_behalf_of(who);
        if registry.may_activate(version, expected_live)?.state == VersionState::Live {
            // A client that makes sure, or tries again: nothing but the note that it did, and above all the learner keeps its
            // moments.
            registry.activate(version, expected_live)?;
            return Ok(());
        }
        let row = registry.verify(version)?;
        let publisher = self.publisher(loader);
        let was_ready = self.setup.engine.is_ready(version);
        publisher.load(version)?;
        let before = registry.activate(version, expected_live).inspect_err(|_| {
            if !was_ready {
                publisher.forget(version);
            }
        })?;
        publisher.promote(version)?;
        self.counters.activations.fetch_add(1, Ordering::Relaxed);
        tracing::info!(%version, %before, "activated by hand");
        self.follow(&row);
        Ok(())
    }

    /// The trainer takes over the weights that serve now.
    pub(super) fn follow(&mut self, row: &VersionRow) {
        if let Some(trainer) = self.trainer.take() {
            match trainer.rebase(&self.setup, row) {
                Ok(trainer) => self.adopt(trainer),
                // The next attempt builds everything anew and reports what is wrong.
                Err(error) => tracing::warn!(%error, "the learner could not follow the activation"),
            }
        }
        self.board.write(|status| status.version = row.version);
    }
}
