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

use policy::{PolicyVersion, checkpoint::stream_durably, model_error::ModelError, transformer::LoraShape};

use super::{Half, fingerprint, read_half, write_half};
use crate::{
    form::{Form, shown},
    models::Models,
    rollout_log::Start,
};

/// First line; another layout gets another number.
const MAGIC: &str = "honed learner state 1";
/// The line after the head.
const END: &str = "tensors";
/// Longest head that is read: a damaged file must not be searched for its end.
const HEAD_BYTES_MAX: u64 = 1 << 16;
/// The word for a model without an adapter.
const WHOLE: &str = "whole";

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
            out.write_all(text(head, &models.control(), forms_of(models)).as_bytes()).map_err(io_error)?;
            Half::ALL.into_iter().try_for_each(|half| write_half(out, models, half, &io_error))
        })
    }

    /// What it is the state of.
    ///
    /// # Errors
    /// When it cannot be read, or its head is not one.
    pub fn head(&self) -> Result<StateHead, ModelError> {
        Ok(self.open()?.1.head)
    }

    /// The forms of its policy and its value model: what models it can be put into. `None`: it does not say, having been written
    /// by a honed that took the configuration's word.
    ///
    /// # Errors
    /// As [`StateFile::head`].
    pub(crate) fn forms(&self) -> Result<Option<[Form; 2]>, ModelError> {
        Ok(self.open()?.1.forms)
    }

    /// Brings models back to it, bit for bit; returns what it is the state of. Call it inside the learner's pool.
    ///
    /// # Errors
    /// When it cannot be read, is of other models, or its numbers are not those that were written; the models may then be
    /// half restored.
    pub fn restore(&self, models: &mut Models) -> Result<StateHead, ModelError> {
        let (mut reader, Top { head, control, forms }) = self.open()?;
        // Nothing in a factor tells what it is to be multiplied by.
        if let Some(written) = forms.filter(|forms| *forms != forms_of(models)) {
            let [written, found] = [written, forms_of(models)].map(|forms| forms.map(shown).join(" and "));
            return Err(self.damaged(&format!("it is of {written}, and would go into {found}")));
        }
        let io_error = |source| ModelError::Io { path: self.path.clone(), source };
        Half::ALL.into_iter().try_for_each(|half| read_half(&mut reader, models, half, &io_error))?;
        models.set_control(&control);
        let found = fingerprint(models, head.update)?.to_string();
        if found != head.fingerprint {
            return Err(self.damaged(&format!("its fingerprint should be {}, and is {found}", head.fingerprint)));
        }
        Ok(head)
    }

    fn open(&self) -> Result<(BufReader<File>, Top), ModelError> {
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
        let top = parse(&lines).ok_or_else(|| self.damaged("its head is not that of a state"))?;
        Ok((reader, top))
    }

    fn damaged(&self, what: &str) -> ModelError {
        ModelError::OptimizerState(format!("{}: {what}", self.path.display()))
    }
}

/// Everything before the tensors.
struct Top {
    head: StateHead,
    control: BTreeMap<String, f64>,
    /// In the order of [`Half::ALL`].
    forms: Option<[Form; 2]>,
}

fn forms_of(models: &Models) -> [Form; 2] {
    Half::ALL.map(|half| half.form(models))
}

/// Numbers as their bits, so that they come back with every one.
fn text(head: &StateHead, control: &BTreeMap<String, f64>, forms: [Form; 2]) -> String {
    let StateHead { update, start, version, digest, fingerprint } = head;
    let mut text = format!("{MAGIC}\nupdate {update}\nstart {}\nversion {}\n", start.as_str(), version.0);
    text += &format!("digest {digest}\nfingerprint {fingerprint}\n");
    for (half, form) in Half::ALL.into_iter().zip(forms) {
        text += &format!("form {} {}\n", half.word(), form_text(form));
    }
    for (name, value) in control {
        text += &format!("control {name} {:016x}\n", value.to_bits());
    }
    text + END + "\n"
}

fn form_text(form: Form) -> String {
    form.map_or_else(|| WHOLE.to_owned(), |lora| format!("{} {:08x}", lora.rank, lora.alpha.to_bits()))
}

fn parse_form(text: &str) -> Option<Form> {
    if text == WHOLE {
        return Some(None);
    }
    let (rank, alpha) = text.split_once(' ')?;
    // Memory is asked for by it before anything is compared.
    let rank = rank.parse().ok().filter(|rank| (1..=config::LORA_RANK_MAX as usize).contains(rank))?;
    let alpha = f32::from_bits(u32::from_str_radix(alpha, 16).ok()?);
    Some(Some(LoraShape { rank, alpha }))
}

fn parse(lines: &[String]) -> Option<Top> {
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
    let forms = match Half::ALL.map(|half| value(&format!("form {}", half.word()))) {
        [Some(policy), Some(value)] => Some([parse_form(policy)?, parse_form(value)?]),
        [None, None] => None,
        _ => return None,
    };
    Some(Top { head, control, forms })
}
