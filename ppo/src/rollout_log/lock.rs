//! One process per data directory.
//!
//! Two learners on one log would train a rollout twice, and two registries would give two weights one number. SQLite's own
//! locks cannot see that, so the folder itself is locked: `flock` on `honed.lock`, which the kernel releases however the
//! process ends, `kill -9` included. A lock file that merely exists would have to be deleted by hand after each crash.
//!
//! # What the file says
//!
//! ```text
//! 4711              the process that has the lock
//! 127.0.0.1:8080    where it listens, from the moment that it serves
//! ```
//!
//! That is how a command finds the daemon of its folder, and never that of another one. A line counts once its end is there:
//! `127.0.0.1:80` may be the start of another port. Nothing is synced, because what a power failure could tear belonged to a
//! lock that is gone as well, and the next holder begins anew. What remains is a reader that comes between the two calls with
//! which the successor of a killed process locks the file and empties it: it reads what the dead one wrote.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    net::SocketAddr,
    os::fd::AsRawFd,
    path::Path,
};

use super::{RolloutLog, error::LogError};

/// In the data directory.
const NAME: &str = "honed.lock";

/// Who has a data directory, as far as the lock file tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockHolder {
    /// Its process.
    pub pid: Option<u32>,
    /// Where it listens; `None` of a daemon that does not serve yet, of one older than this line, and of a mere command.
    pub address: Option<SocketAddr>,
}

/// Held as long as the log is open.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
}

impl LockHolder {
    /// Who has this data directory now; `None` when nobody has. Changes nothing, but takes the lock for an instant where nobody
    /// has it, so that a daemon which starts in that instant is refused: only for whoever has reason to believe that one runs.
    #[must_use]
    pub fn of(dir: &Path) -> Option<LockHolder> {
        let mut file = File::open(dir.join(NAME)).ok()?;
        // SAFETY: the descriptor is open for the whole call, and flock touches no memory of ours. Closing gives a lock back.
        let is_free = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0;
        let mut text = String::new();
        // A courtesy: what cannot be read leaves a holder of whom nothing is known.
        let _ = file.read_to_string(&mut text);
        (!is_free).then(|| LockHolder::parse(&text))
    }

    /// Reads what a lock file holds; what is torn or foreign is as if absent.
    fn parse(text: &str) -> LockHolder {
        let mut lines = text.split_inclusive('\n').map_while(|line| line.strip_suffix('\n'));
        let Some(pid) = lines.next().and_then(|line| line.parse().ok()) else {
            return LockHolder::default();
        };
        LockHolder { pid: Some(pid), address: lines.next().and_then(|line| line.parse().ok()) }
    }
}

impl fmt::Display for LockHolder {
    /// An aside to whatever names the holder, with its own space: ` (pid 4711)`; nothing when nothing is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.address) {
            (Some(pid), Some(address)) => write!(f, " (pid {pid}, listening on {address})"),
            (Some(pid), None) => write!(f, " (pid {pid})"),
            (None, _) => Ok(()),
        }
    }
}

impl RolloutLog {
    /// Leaves word in the data directory where its daemon listens, for [`LogError::Locked`] of whoever comes next. Once in the
    /// life of a log; blocks for one small write.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub fn announce(&self, address: SocketAddr) -> Result<(), LogError> {
        let io = |source| LogError::Io { path: self.data_dir().join(NAME), source };
        self.shared.lock.announce(address).map_err(io)
    }
}

impl DirLock {
    /// Takes the folder or says who has it.
    pub(super) fn take(dir: &Path) -> Result<DirLock, LogError> {
        let path = dir.join(NAME);
        let io = |source| LogError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        // SAFETY: the descriptor is open for the whole call, and flock touches no memory of ours.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EWOULDBLOCK) {
                return Err(io(error));
            }
            let mut text = String::new();
            // A courtesy: what cannot be read leaves a holder of whom nothing is known.
            let _ = file.read_to_string(&mut text);
            return Err(LogError::Locked { dir: dir.to_path_buf(), holder: LockHolder::parse(&text) });
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(io)?;
        Ok(DirLock { file })
    }

    /// Adds the second line, in one write.
    fn announce(&self, address: SocketAddr) -> std::io::Result<()> {
        (&self.file).write_all(format!("{address}\n").as_bytes())
    }
}

impl Drop for DirLock {
    /// Unlocks by name, not only by closing: a process that another thread is starting at this moment holds a copy of every
    /// descriptor until its `exec`, and for so long the lock would outlive the log.
    fn drop(&mut self) {
        // So that nobody takes our successor for us. Where it fails, the successor empties the file a moment later.
        let _ = self.file.set_len(0);
        // SAFETY: the descriptor is still open, and flock touches no memory of ours. Closing follows whatever it answers.
        let _ = unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddr {
        "127.0.0.1:8080".parse().unwrap()
    }

    /// Who has the folder, as whoever comes second is told.
    #[track_caller]
    fn holder(dir: &Path) -> LockHolder {
        match DirLock::take(dir) {
            Err(LogError::Locked { holder, .. }) => holder,
            other => panic!("expected a locked folder, got {other:?}"),
        }
    }

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

    #[test]
    fn a_holder_is_known_by_its_pid_and_once_it_listens_by_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::take(dir.path()).unwrap();
        let pid = Some(std::process::id());
        assert_eq!(holder(dir.path()), LockHolder { pid, address: None });
        lock.announce(address()).unwrap();
        assert_eq!(holder(dir.path()), LockHolder { pid, address: Some(address()) });
    }

    #[test]
    fn who_only_asks_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LockHolder::of(dir.path()), None);
        assert!(!dir.path().join(NAME).exists());
        let lock = DirLock::take(dir.path()).unwrap();
        lock.announce(address()).unwrap();
        let holder = LockHolder { pid: Some(std::process::id()), address: Some(address()) };
        assert_eq!(LockHolder::of(dir.path()), Some(holder));
        drop(lock);
        // What a killed daemon leaves names nobody who lives.
        std::fs::write(dir.path().join(NAME), "4294967295\n127.0.0.1:8080\n").unwrap();
        assert_eq!(LockHolder::of(dir.path()), None);
        DirLock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_holder_is_never_taken_for_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        // What a killed daemon leaves, longer than what follows it.
        std::fs::write(&path, "4294967295\n[2001:db8::1]:65535\n").unwrap();
        let lock = DirLock::take(dir.path()).unwrap();
        assert_eq!(holder(dir.path()), LockHolder { pid: Some(std::process::id()), address: None });
        lock.announce(address()).unwrap();
        drop(lock);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "");
    }

    #[test]
    fn only_whole_lines_count() {
        let pid = Some(12);
        let cases = [
            ("", LockHolder::default()),
            ("12", LockHolder::default()),
            ("nonsense\n127.0.0.1:8080\n", LockHolder::default()),
            ("12\n", LockHolder { pid, address: None }),
            ("12\n127.0.0.1:80", LockHolder { pid, address: None }),
            ("12\nnonsense\n", LockHolder { pid, address: None }),
            ("12\n127.0.0.1:8080\n", LockHolder { pid, address: Some(address()) }),
            ("12\n[::]:8080\n", LockHolder { pid, address: Some("[::]:8080".parse().unwrap()) }),
        ];
        for (text, expected) in cases {
            assert_eq!(LockHolder::parse(text), expected, "{text:?}");
        }
    }
}
