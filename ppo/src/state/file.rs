//! A state in a file: a head of a few lines, then the tensors.
//!
//! Not GGUF: its writer wants every tensor encoded before the first byte, which would be the whole state a second time in
//! memory. Whether a file is whole and holds what it says is told by the fingerprint in its head, taken of what was in
//! memory when it was written and compared with what is in memory after it was read.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use policy::{PolicyVersion, checkpoint::stream_durably, model_error::ModelError};

use super::{Half, fingerprint, read_half, write_half};
use crate::{models::Models, rollout_log::Start};

/// First line; another layout gets another number.
const MAGIC: &str = "honed learner state 1";
/// The line after the head.
const END: &str = "tensors";
/// Longest head that is read: a damaged file must not be searched for its end.
const HEAD_BYTES_MAX: u64 = 1 << 16;

/// What a state is the state of.
#[derive(Clone, Debug, PartialEq)]
pub struct StateHead {
    /// Number of the next update.
    pub update: u64,
    /// How the state came about when no update led to it.
    pub start: Start,
    /// The version that it stands at.
    pub version: PolicyVersion,
    /// Digest of that version's file.
    pub digest: String,
    /// Fingerprint of the whole.
    pub fingerprint: String,
}

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// A file at this path, there or not.
    #[must_use]
    pub fn at(path: PathBuf) -> StateFile {
        StateFile { path }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, models: &Models, head: &StateHead) -> Result<(), ModelError> {
        let io_error = |source| ModelError::Io { path: self.path.clone(), source };
        stream_durably(&self.path, |out| {
            out.write_all(text(head, &models.control()).as_bytes()).map_err(io_error)?;
            Half::ALL.into_iter().try_for_each(|half| write_half(out, models, half, &io_error))
        })
    }

    /// What it is the state of.
    ///
    /// # Errors
    /// When it cannot be read, or its head is not one.
    pub fn head(&self) -> Result<StateHead, ModelError> {
        Ok(self.open()?.1.0)
    }

    /// Brings models back to it, bit for bit; returns what it is the state of. Call it inside the learner's pool.
    ///
    /// # Errors
    /// When it cannot be read, is of other models, or its numbers are not those that were written; the models may then be
    /// half restored.
    pub fn restore(&self, models: &mut Models) -> Result<StateHead, ModelError> {
        let (mut reader, (head, control)) = self.open()?;
        let io_error = |source| ModelError::Io { path: self.path.clone(), source };
        Half::ALL.into_iter().try_for_each(|half| read_half(&mut reader, models, half, &io_error))?;
        models.set_control(&control);
        let found = fingerprint(models, head.update)?.to_string();
        if found != head.fingerprint {
            return Err(self.damaged(&format!("its fingerprint should be {}, and is {found}", head.fingerprint)));
        }
        Ok(head)
    }

    fn open(&self) -> Result<(BufReader<File>, Head), ModelError> {
        let io_error = |source| ModelError::Io { path: self.path.clone(), source };
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&self.path).map_err(io_error)?);
        let mut lines = Vec::new();
        let mut start = reader.by_ref().take(HEAD_BYTES_MAX);
        loop {
            let mut line = String::new();
            let n_read = start.read_line(&mut line).map_err(io_error)?;
            match line.trim_end() {
                END => break,
                _ if n_read == 0 => return Err(self.damaged("its head does not end")),
                line => lines.push(line.to_owned()),
            }
        }
        let head = parse(&lines).ok_or_else(|| self.damaged("its head is not that of a state"))?;
        Ok((reader, head))
    }

    fn damaged(&self, what: &str) -> ModelError {
        ModelError::OptimizerState(format!("{}: {what}", self.path.display()))
    }
}

type Head = (StateHead, BTreeMap<String, f64>);

/// Numbers as their bits, so that they come back with every one.
fn text(head: &StateHead, control: &BTreeMap<String, f64>) -> String {
    let StateHead { update, start, version, digest, fingerprint } = head;
    let mut text = format!("{MAGIC}\nupdate {update}\nstart {}\nversion {}\n", start.as_str(), version.0);
    text += &format!("digest {digest}\nfingerprint {fingerprint}\n");
    for (name, value) in control {
        text += &format!("control {name} {:016x}\n", value.to_bits());
    }
    text + END + "\n"
}

fn parse(lines: &[String]) -> Option<Head> {
    let (magic, fields) = lines.split_first()?;
    if magic != MAGIC {
        return None;
    }
    let value = |field: &str| fields.iter().find_map(|line| line.strip_prefix(field)?.strip_prefix(' '));
    let head = StateHead {
        update: value("update")?.parse().ok()?,
        start: Start::parse(value("start")?)?,
        version: PolicyVersion(value("version")?.parse().ok()?),
        digest: value("digest")?.to_owned(),
        fingerprint: value("fingerprint")?.to_owned(),
    };
    let mut control = BTreeMap::new();
    for line in fields.iter().filter_map(|line| line.strip_prefix("control ")) {
        let (name, bits) = line.split_once(' ')?;
        control.insert(name.to_owned(), f64::from_bits(u64::from_str_radix(bits, 16).ok()?));
    }
    Some((head, control))
}
