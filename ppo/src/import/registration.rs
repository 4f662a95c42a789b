//! From a file to a candidate: a checked copy under a number of its own, and its row.

use std::{io::Seek, path::Path};

use policy::{
    PolicyVersion,
    checkpoint::{self, Digest, copy_durably, gguf::Header, header_of_file, safetensors},
    model_error::ModelError,
};

use super::{ImportError, Importer, examination::is_gguf, io_error, reading::Reading};
use crate::{
    registry::{Candidate, Registry},
    rollout_log::ImportRow,
};

impl Importer {
    /// From a name to a candidate in the registry, with a checked copy of the file.
    pub(super) fn register(
        &self,
        path: &Path,
        registry: &Registry,
        row: &mut ImportRow,
    ) -> Result<PolicyVersion, ImportError> {
        let (file, len) = self.setup.intake.open(path)?;
        let mut file = Reading::new(file, &self.setup.engine);
        let sft = header_of_file(&registry.path(PolicyVersion::SFT))?;
        // Of the file as it stands, so that what is no model at all costs neither a copy nor a number.
        let is_gguf = is_gguf(&mut file, path)?;
        match is_gguf {
            true => drop(self.look(&mut file, len, &sft)?),
            false => drop(safetensors::Header::read(&mut file, len)?),
        }
        let found = checkpoint::digest_of(&mut file).map_err(|source| io_error(path, source))?;
        row.digest = Some(found.to_string());
        self.check_new(found, row.source)?;
        let converted = if is_gguf { None } else { Some(self.convert(&mut file, len, &sft)?) };
        if let Some(converted) = &converted {
            let known = self.check_new(converted.digest()?, row.source);
            known.inspect_err(|error| row.version = error.known())?;
        }
        file.rewind().map_err(|source| io_error(path, source))?;
        let copy = |to: &Path| match &converted {
            None => copy_durably(&mut file, len, to),
            Some(converted) => converted.write(to).map(drop),
        };
        let (version, digest) = self.copied(registry, &sft, copy)?;
        if is_gguf {
            row.digest = Some(digest.to_string());
        }
        let parent = registry.live().map(|live| live.version);
        let registered =
            parent.and_then(|parent| registry.register(&Candidate { version, parent, digest, n_rollouts: 0 }));
        registered.inspect_err(|_| registry.discard(version))?;
        row.version = Some(version);
        Ok(version)
    }

    /// A number, and the file of that number: what `copy` wrote there, examined.
    pub(super) fn copied(
        &self,
        registry: &Registry,
        sft: &Header,
        copy: impl FnOnce(&Path) -> Result<(), ModelError>,
    ) -> Result<(PolicyVersion, Digest), ImportError> {
        let version = registry.next_version()?;
        let to = registry.path(version);
        let examined = copy(&to).map_err(ImportError::from).and_then(|()| self.examine(&to, sft));
        Ok((version, examined.inspect_err(|_| registry.discard(version))?))
    }
}
