//! The folder of states: `state-N` is what update N starts from.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::StateFile;

const PREFIX: &str = "state-";

/// `learner/` in the data directory.
#[derive(Clone, Debug)]
pub struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// The folder of a data directory; it may not be there yet.
    #[must_use]
    pub fn of(data_dir: &Path) -> StateFolder {
        StateFolder { path: data_dir.join("learner") }
    }

    /// Makes it, and removes what a crash left half written.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|name| number(name).is_none()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an update starts from, there or not.
    #[must_use]
    pub fn file(&self, update: u64) -> StateFile {
        StateFile::at(self.path.join(format!("{PREFIX}{update}")))
    }

    /// Numbers of the updates whose starts are there, newest first.
    #[must_use]
    pub fn updates(&self) -> Vec<u64> {
        // A folder that is not there, or cannot be read, holds no state that could be.
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut updates: Vec<u64> = entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect();
        updates.sort_unstable_by(|a, b| b.cmp(a));
        updates
    }

    /// Removes all but the newest `n_kept`, one at least, and the nearest one from which `needed` can be reached. A file that
    /// stays is removed the next time.
    pub fn prune(&self, n_kept: usize, needed: Option<u64>) {
        let updates = self.updates();
        let nearest = updates.iter().copied().find(|update| needed.is_some_and(|needed| *update <= needed));
        for update in updates.into_iter().skip(n_kept.max(1)).filter(|update| Some(*update) != nearest) {
            if let Err(error) = fs::remove_file(self.file(update).path()) {
                tracing::warn!(update, %error, "an old state of the learner could not be removed");
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}
