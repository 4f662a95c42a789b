//! Why learning stands still, on disk: a restart must not undo what a guard or the watch has said.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const FILE: &str = "learner.halted";

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// The reason that an earlier process wrote down and nobody has answered yet.
pub(super) fn read(data_dir: &Path) -> Option<String> {
    fs::read_to_string(path(data_dir)).ok().map(|why| why.trim().to_owned())
}

/// Writes it down. A failure costs the memory of it over a restart, and is logged.
pub(super) fn write(data_dir: &Path, why: &str) {
    let aside = data_dir.join(format!("{FILE}.new"));
    let written = fs::write(&aside, why).and_then(|()| fs::rename(&aside, path(data_dir)));
    if let Err(error) = written {
        tracing::warn!(%error, "a restart will not know that learning was halted");
    }
}

/// An operator has answered.
pub(super) fn forget(data_dir: &Path) {
    match fs::remove_file(path(data_dir)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, "a restart will think that learning is still halted"),
    }
}
