//! What a file is, before anybody loads it: its header, its fit, and every number in it.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use policy::{
    PolicyVersion,
    checkpoint::{
        self, Checkpoint, Digest, Form, check_finite, check_fit,
        gguf::{Header, Malformed},
        safetensors,
    },
    failpoint,
};

use super::{Accepts, Importer, error::ImportError, io_error, reading::Reading};

impl Importer {
    /// Weights under Hugging Face's names, as a file like version 0's would hold them.
    pub(super) fn convert(&self, file: &mut Reading<'_>, len: u64, sft: &Header) -> Result<Checkpoint, ImportError> {
        file.rewind().map_err(|error| Malformed(format!("it cannot be read: {error}")))?;
        let header = safetensors::Header::read(file, len)?;
        let source = Checkpoint::read(&self.setup.registry.path(PolicyVersion::SFT))?;
        Ok(safetensors::as_version(file, &header, &source, &sft.vocabulary_digest)?)
    }

    /// The copy and every number in it; nobody changes it from here on.
    pub(super) fn examine(&self, copy: &Path, sft: &Header) -> Result<Digest, ImportError> {
        failpoint::passed("import.copied");
        let opened = File::open(copy).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|source| io_error(copy, source))?;
        let mut file = Reading::new(file, &self.setup.engine);
        let header = self.look(&mut file, len, sft)?;
        check_finite(&mut file, &header)?;
        checkpoint::digest_of(&mut file).map_err(|source| io_error(copy, source))
    }

    /// The header, and whether it could be a version here.
    pub(super) fn look(&self, file: &mut Reading<'_>, len: u64, sft: &Header) -> Result<Header, ImportError> {
        file.seek(SeekFrom::Start(0)).map_err(|error| Malformed(format!("it cannot be read: {error}")))?;
        let header = Header::read(&mut *file, len)?;
        let wrong = match (check_fit(&header, sft)?, self.setup.accepts) {
            (Form::Adapter { .. }, Accepts::Whole) => {
                Some("it is an adapter, and this daemon trains whole weights (ppo.lora_rank = 0)")
            }
            (Form::Whole, Accepts::Adapters) => {
                Some("it is a whole model, and this daemon trains adapters (ppo.lora_rank)")
            }
            (Form::Adapter { is_complete: false, .. }, Accepts::Adapters) => {
                Some("its adapter leaves layers out, and the learner needs one for each of every block's matrices")
            }
            _ => None,
        };
        match wrong {
            Some(what) => Err(Malformed(what.to_owned()).into()),
            None => Ok(header),
        }
    }
}

/// Whether it begins as a GGUF, and not as a safetensors file, which begins with the length of a JSON object in eight bytes.
/// Leaves the file at its first byte.
///
/// # Errors
/// When it begins as neither, or cannot be read.
pub(super) fn is_gguf(file: &mut Reading<'_>, path: &Path) -> Result<bool, ImportError> {
    let mut start = Vec::new();
    let read = file.by_ref().take(9).read_to_end(&mut start).and_then(|_| file.rewind());
    read.map_err(|source| io_error(path, source))?;
    match (start.starts_with(b"GGUF"), start.get(8)) {
        (true, _) => Ok(true),
        (false, Some(b'{')) => Ok(false),
        (false, _) => Err(Malformed("it is neither a GGUF nor a safetensors file".to_owned()).into()),
    }
}
