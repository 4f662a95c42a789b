//! The average of the learner's weights as a candidate: a file that lies beside a version in our own folder.
//!
//! It comes as a file from outside does, and its parent is the version that it lies beside. Whoever has it judged says what it makes
//! way for ([`Obstacle`]); then there is no verdict.

use std::{io::Seek, path::Path};

use policy::{
    PolicyVersion,
    checkpoint::{self, copy_durably, header_of_file},
};

use super::{ImportError, Importer, Obstacle, io_error, reading::Reading};
use crate::{
    registry::Candidate,
    rollout_log::{Averaged, ImportSource},
};

impl Importer {
    /// Has an average judged, and kept where it passes; it never goes live by that. Blocks until then, or until there is an
    /// obstacle, or nobody could judge it: then there is no verdict.
    ///
    /// # Errors
    /// [`ImportError`].
    pub(crate) fn load_average(
        &self,
        path: &Path,
        of: Averaged,
        obstacle: Obstacle<'_>,
    ) -> Result<PolicyVersion, ImportError> {
        self.may_begin()?;
        let registry = &self.setup.registry;
        let version = match self.setup.engine.beside_serving(|| self.register_average(path, of)) {
            Err(_) if self.setup.engine.is_shutting_down() => return Err(ImportError::Stopping),
            registered => registered?,
        };
        let ended = self.try_out(registry, version, &of.numbers(), Some(obstacle));
        self.forget(version);
        registry.keep_house(&self.setup.engine.in_memory());
        ended.map(|()| version)
    }

    fn register_average(&self, path: &Path, of: Averaged) -> Result<PolicyVersion, ImportError> {
        let registry = &self.setup.registry;
        let (file, len) = self.setup.intake.open(path)?;
        let mut file = Reading::new(file, &self.setup.engine);
        let sft = header_of_file(&registry.path(PolicyVersion::SFT))?;
        let found = checkpoint::digest_of(&mut file).map_err(|source| io_error(path, source))?;
        self.check_new(found, ImportSource::Folder)?;
        file.rewind().map_err(|source| io_error(path, source))?;
        let (version, digest) = self.copied(registry, &sft, |to| copy_durably(&mut file, len, to))?;
        let candidate = Candidate { version, parent: of.last, digest, n_rollouts: 0 };
        registry.register_with(&candidate, of.numbers()).inspect_err(|_| registry.discard(version))?;
        Ok(version)
    }
}
