//! One process per data directory.
//!
//! Two learners on one log would train a rollout twice, and two registries would give two weights one number. SQLite's own
//! locks cannot see that, so the folder itself is locked: `flock` on `honed.lock`, which the kernel releases however the
//! process ends, `kill -9` included. A lock file that merely exists would have to be deleted by hand after each crash.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::fd::AsRawFd,
    path::Path,
};

use super::error::LogError;

/// Held as long as the log is open.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
}

impl DirLock {
    /// Takes the folder or says who has it.
    pub(super) fn take(dir: &Path) -> Result<DirLock, LogError> {
        let path = dir.join("honed.lock");
        let io = |source| LogError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        // SAFETY: the descriptor is open for the whole call, and flock touches no memory of ours.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EWOULDBLOCK) {
                return Err(io(error));
            }
            let mut pid = String::new();
            // The number is a courtesy in a message; without it the message still says what to do.
            let _ = file.read_to_string(&mut pid);
            let holder = if pid.trim().is_empty() { String::new() } else { format!(" (pid {})", pid.trim()) };
            return Err(LogError::Locked { dir: dir.to_path_buf(), holder });
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(DirLock { file })
    }
}

impl Drop for DirLock {
    /// Unlocks by name, not only by closing: a process that another thread is starting at this moment holds a copy of every
    /// descriptor until its `exec`, and for so long the lock would outlive the log.
    fn drop(&mut self) {
        // SAFETY: the descriptor is still open, and flock touches no memory of ours. Closing follows whatever it answers.
        let _ = unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_does_not_hold_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::take(dir.path()).unwrap();
        // What fork gives to a child that has not yet called exec.
        let _copy = lock.file.try_clone().unwrap();
        assert!(matches!(DirLock::take(dir.path()), Err(LogError::Locked { .. })), "one holder at a time");
        drop(lock);
        DirLock::take(dir.path()).unwrap();
    }
}
