//! Opening a file that somebody named from outside.
//!
//! Only below one folder, and what is opened is what was looked at: the path is walked part by part with `openat`, no symbolic
//! link is followed on the way (one that leads out and one that does not look the same to whoever swaps them at the right
//! moment), and everything asked about the file afterwards is asked of the open descriptor. A FIFO does not make us wait and a
//! device is not read: both are opened without blocking and refused for what they are.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::{ffi::OsStrExt, fs::FileTypeExt},
    },
    path::{Component, Path, PathBuf},
};

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// It names no file of this machine.
    #[error("expected the path of a file, got {0:?}")]
    NotAPath(String),
    /// It leads out of the folder, or could.
    #[error("{path:?}: {what}")]
    Outside {
        /// As it was given.
        path: PathBuf,
        /// Why.
        what: &'static str,
    },
    /// There is nothing.
    #[error("there is no file {0:?}")]
    NotFound(PathBuf),
    /// It is something else.
    #[error("{path:?} is {what}, expected a regular file")]
    NotAFile {
        /// As it was given.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It is too large.
    #[error("{path:?} has {bytes} bytes, expected at most {bytes_max}")]
    TooLarge {
        /// As it was given.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The file system said no.
    #[error("{path:?}: {source}")]
    Io {
        /// As it was given.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// The one folder from which files are taken.
#[derive(Clone, Debug)]
pub struct Intake {
    root: PathBuf,
    given: PathBuf,
    bytes_max: u64,
}

impl Intake {
    /// A folder that exists. The operator's own path to it may hold symbolic links.
    ///
    /// # Errors
    /// When it does not exist or is no folder.
    pub fn new(folder: &Path, bytes_max: u64) -> io::Result<Intake> {
        let root = folder.canonicalize()?;
        if !root.is_dir() {
            return Err(io::Error::other("it is not a folder"));
        }
        Ok(Intake { root, given: folder.to_owned(), bytes_max })
    }

    /// Where it lies.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a regular file below the folder, named relative to it or absolutely; returns it with its size, bytes.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub fn open(&self, path: &Path) -> Result<(File, u64), IntakeError> {
        let text = path.to_string_lossy();
        if text.is_empty() || text.contains("://") || text.contains('\0') {
            return Err(IntakeError::NotAPath(text.into_owned()));
        }
        let parts = self.parts(path)?;
        let io_error = |source| IntakeError::Io { path: path.to_owned(), source };
        let mut file = File::open(&self.root).map_err(io_error)?;
        for (i, part) in parts.iter().enumerate() {
            let is_last = i + 1 == parts.len();
            file = open_at(&file, part, is_last).map_err(|error| refusal(path, error))?;
        }
        let found = file.metadata().map_err(io_error)?;
        if !found.is_file() {
            return Err(IntakeError::NotAFile { path: path.to_owned(), what: kind(found.file_type()) });
        }
        if found.len() > self.bytes_max {
            let (path, bytes, bytes_max) = (path.to_owned(), found.len(), self.bytes_max);
            return Err(IntakeError::TooLarge { path, bytes, bytes_max });
        }
        Ok((file, found.len()))
    }

    /// Names of the folders on the way and of the file.
    fn parts(&self, path: &Path) -> Result<Vec<CString>, IntakeError> {
        let outside = |what| IntakeError::Outside { path: path.to_owned(), what };
        let relative = match path.is_absolute() {
            false => path,
            true => path
                .strip_prefix(&self.root)
                .or_else(|_| path.strip_prefix(&self.given))
                .map_err(|_| outside("it is not inside the folder from which models may be loaded"))?,
        };
        let mut parts = Vec::new();
        for component in relative.components() {
            match component {
                Component::Normal(name) => {
                    parts.push(CString::new(name.as_bytes()).expect("zero bytes were refused before"));
                }
                Component::CurDir => {}
                _ => return Err(outside("`..` is not followed")),
            }
        }
        match parts.is_empty() {
            true => Err(IntakeError::NotAFile { path: path.to_owned(), what: "a folder" }),
            false => Ok(parts),
        }
    }
}

fn open_at(folder: &File, name: &CString, is_last: bool) -> io::Result<File> {
    let kind = if is_last { libc::O_NONBLOCK | libc::O_NOCTTY } else { libc::O_DIRECTORY };
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC | kind;
    // SAFETY: the folder's descriptor is open and the name ends with a zero byte for the whole call.
    let descriptor = unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn refusal(path: &Path, error: io::Error) -> IntakeError {
    let path = path.to_owned();
    match error.raw_os_error() {
        // No file has a name that is longer than names can be.
        Some(libc::ENOENT | libc::ENAMETOOLONG) => IntakeError::NotFound(path),
        Some(libc::ELOOP | libc::ENOTDIR) => {
            IntakeError::Outside { path, what: "a part of it is a symbolic link, which is not followed, or no folder" }
        }
        Some(libc::ENXIO) => IntakeError::NotAFile { path, what: "a socket or a device" },
        _ => IntakeError::Io { path, source: error },
    }
}

fn kind(kind: std::fs::FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () if kind.is_socket() => "a socket",
        () => "no regular file",
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use super::*;

    struct World {
        _dir: tempfile::TempDir,
        root: PathBuf,
        intake: Intake,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("models");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/a.gguf"), b"12345").unwrap();
        fs::write(dir.path().join("secret"), b"s").unwrap();
        let intake = Intake::new(&root, 5).unwrap();
        World { _dir: dir, root, intake }
    }

    fn refusal(world: &World, path: impl AsRef<Path>) -> IntakeError {
        world.intake.open(path.as_ref()).unwrap_err()
    }

    #[test]
    fn a_file_is_found_by_both_kinds_of_path() {
        let world = world();
        for path in [Path::new("sub/a.gguf"), Path::new("./sub/./a.gguf"), &world.root.join("sub/a.gguf")] {
            assert_eq!(world.intake.open(path).unwrap().1, 5, "{path:?}");
        }
    }

    #[test]
    fn nothing_leads_out() {
        let world = world();
        symlink("../secret", world.root.join("link")).unwrap();
        symlink("..", world.root.join("up")).unwrap();
        symlink("sub/a.gguf", world.root.join("inside")).unwrap();
        let outside = ["../secret", "sub/../../secret", "link", "up/secret", "inside", "/etc/passwd"];
        for path in outside.into_iter().map(PathBuf::from).chain([world.root.join("../secret")]) {
            assert!(matches!(refusal(&world, &path), IntakeError::Outside { .. }), "{path:?}");
        }
    }

    #[test]
    fn what_is_no_file_is_told_what_it_is_and_nobody_waits() {
        let world = world();
        assert!(Command::new("mkfifo").arg(world.root.join("fifo")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(world.root.join("socket")).unwrap();
        let text = |path: &str| refusal(&world, path).to_string();
        assert!(text("fifo").contains("a FIFO"));
        assert!(text("sub").contains("a folder") && text(".").contains("a folder"));
        assert!(text("socket").contains("a socket"));
        assert!(matches!(refusal(&world, "absent"), IntakeError::NotFound(_)));
        assert!(matches!(refusal(&world, "a".repeat(4000)), IntakeError::NotFound(_)));
        assert!(matches!(refusal(&world, "sub/a.gguf/b"), IntakeError::Outside { .. }));
        for path in ["", "http://host/a.gguf", "file:///etc/passwd", "a\0b"] {
            assert!(matches!(refusal(&world, path), IntakeError::NotAPath(_)), "{path:?}");
        }
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let world = world();
        fs::write(world.root.join("large"), b"123456").unwrap();
        assert!(matches!(refusal(&world, "large"), IntakeError::TooLarge { bytes: 6, bytes_max: 5, .. }));
        assert!(Intake::new(&world.root.join("sub/a.gguf"), 1).is_err());
    }
}
