//! An operator's word: this version, now. Rollback is this.
//!
//! A version in memory serves before the owner hears of it ([`Switch`](crate::publish::Switch)): what it does at the lowest
//! priority, and may be in the middle of, is nothing that a rollback can wait for. It hears of it by the bell, and its trainer
//! follows. Only what has to be read and checked first goes through the owner.

use policy::PolicyVersion;

use super::{Learner, LearnerError, owner::Owner};
use crate::{
    publish::{Loader, Publisher, Switched},
    rollout_log::Who,
};

impl Learner {
    /// Makes the version live if it is in memory. The update at hand then breaks off: it would have the parent that was left.
    pub(super) fn switch(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
    ) -> Result<Switched, LearnerError> {
        let rollback = self.rollback().ok_or(LearnerError::Closed)?;
        let switched = rollback.switch.activate(version, expected_live, who)?;
        if switched == Switched::Done {
            self.shared.board.write(|status| status.version = version);
            rollback.bell.ring();
        }
        Ok(switched)
    }
}

impl Owner {
    /// Checked and in memory first, then the row, then the pointer. Whether the trainer has to follow.
    pub(super) fn activate(
        &mut self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
        loader: &Loader,
    ) -> Result<bool, LearnerError> {
        let publisher = self.publisher(loader);
        let switched = self.rollback.switch.load_and_activate(version, expected_live, who, || {
            self.setup.registry.verify(version)?;
            publisher.load_to_serve(version)
        });
        Ok(switched? == Switched::Done)
    }

    /// The trainer takes over the weights that serve now, where others than its own do.
    pub(super) fn follow(&mut self) {
        let row = match self.setup.registry.live() {
            Ok(row) => row,
            // The next publication finds another version live than its own, and comes to nothing.
            Err(error) => return tracing::warn!(%error, "the learner does not know which version serves"),
        };
        if let Some(trainer) = self.trainer.take_if(|trainer| trainer.head.version != row.version) {
            // A file may have been damaged since it came into memory, and must not be learnt from.
            let rebased = self.setup.registry.verify(row.version).map_err(|error| error.to_string());
            match rebased.and_then(|row| trainer.rebase(&self.setup, &row).map_err(|error| error.to_string())) {
                Ok(trainer) => {
                    self.adopt(trainer);
                    self.save();
                }
                // The next attempt builds everything anew and reports what is wrong.
                Err(error) => tracing::warn!(error, "the learner could not follow the activation"),
            }
        }
        self.board.write(|status| status.version = row.version);
    }

    pub(super) fn publisher<'a>(&'a self, loader: &'a Loader) -> Publisher<'a> {
        Publisher {
            engine: &self.setup.engine,
            loader,
            switch: &self.rollback.switch,
            registry: &self.setup.registry,
            config: &self.setup.config,
            counters: &self.counters,
            scorer: self.setup.scorer.as_ref(),
        }
    }
}
