//! Moments at which the disk has just changed: a test looks at it there as a crash would leave it.
//!
//! `kill -9` keeps what was written and loses what is in memory, so a copy of the data directory taken at such a moment *is*
//! the crash, and the run that it was taken from is the uninterrupted one to compare with. For a real death at such a moment,
//! each is a failpoint ([`policy::failpoint`]) too.

/// Says that a moment of this name has come.
pub(crate) fn reached(data_dir: &std::path::Path, name: &'static str) {
    policy::failpoint::passed(name);
    #[cfg(test)]
    watched::reached(data_dir, name);
    #[cfg(not(test))]
    let _ = data_dir;
}

#[cfg(test)]
pub(crate) use watched::watch;

#[cfg(test)]
mod watched {
    use std::{
        path::{Path, PathBuf},
        sync::{Mutex, PoisonError},
    };

    type Watcher = Box<dyn FnMut(&'static str) + Send>;

    static WATCHERS: Mutex<Vec<(PathBuf, Watcher)>> = Mutex::new(Vec::new());

    pub(super) fn reached(data_dir: &Path, name: &'static str) {
        for (watched, watcher) in &mut *WATCHERS.lock().unwrap_or_else(PoisonError::into_inner) {
            if watched == data_dir {
                watcher(name);
            }
        }
    }

    /// Calls `watcher` at every moment of this data directory.
    pub(crate) fn watch(data_dir: &Path, watcher: impl FnMut(&'static str) + Send + 'static) {
        WATCHERS.lock().unwrap_or_else(PoisonError::into_inner).push((data_dir.to_path_buf(), Box::new(watcher)));
    }
}
