//! Why learning stands still, on disk: a restart must not undo what a guard or the watch has said.
//!
//! It is written before the transaction that it belongs to. Whoever dies in between finds learning halted without a cause that
//! can still be seen, and resumes it; the other way round a restart would learn on from what was just taken back.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use policy::checkpoint::write_durably;

const FILE: &str = "learner.halted";

/// The reason that an earlier process wrote down and nobody has answered yet.
pub(super) fn read(data_dir: &Path) -> Option<String> {
    read_file(&data_dir.join(FILE))
}

/// Whether learning is halted, or is about to be.
pub(crate) fn is_halted(data_dir: &Path) -> bool {
    data_dir.join(FILE).exists()
}

fn read_file(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|why| why.trim().to_owned())
}

/// The file. The owner writes it and the watch does, one at a time.
pub(super) struct HaltFile {
    path: PathBuf,
    turn: Mutex<()>,
}

/// A reason that is on the disk, and what was there before it.
pub(super) struct Announced {
    why: String,
    before: Option<String>,
}

/// While this is held, nobody else changes the file.
pub(super) struct Turn<'a> {
    path: &'a Path,
    _one_at_a_time: MutexGuard<'a, ()>,
}

impl Announced {
    /// What was said once and holds no longer.
    pub(super) fn over(why: String, before: Option<String>) -> Announced {
        Announced { why, before }
    }

    pub(super) fn why(&self) -> &str {
        &self.why
    }
}

impl HaltFile {
    pub(super) fn of(data_dir: &Path) -> HaltFile {
        HaltFile { path: data_dir.join(FILE), turn: Mutex::new(()) }
    }

    pub(super) fn turn(&self) -> Turn<'_> {
        // Nothing is guarded but the order.
        Turn { path: &self.path, _one_at_a_time: self.turn.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Turn<'_> {
    pub(super) fn read(&self) -> Option<String> {
        read_file(self.path)
    }

    /// On the disk when it returns. A failure costs the memory of it over a restart, and is logged.
    pub(super) fn announce(&self, why: String) -> Announced {
        let before = self.read();
        self.write(&why);
        Announced { why, before }
    }

    /// It came to nothing: there is what was there before, unless somebody has had more to say since.
    pub(super) fn withdraw(&self, announced: Announced) {
        if self.read().as_ref() == Some(&announced.why) {
            match announced.before {
                Some(before) => self.write(&before),
                None => self.forget(),
            }
        }
    }

    /// An operator has answered.
    pub(super) fn forget(&self) {
        match fs::remove_file(self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a restart will think that learning is still halted"),
        }
    }

    fn write(&self, why: &str) {
        if let Err(error) = write_durably(self.path, why.as_bytes()) {
            tracing::warn!(%error, "a restart will not know that learning was halted");
        }
    }
}
