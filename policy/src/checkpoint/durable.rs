//! A file that appears whole or not at all, also across a power cut.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use crate::{
    failpoint,
    model_error::{ModelError, Result},
};

/// Writes aside, syncs the bytes, renames over `path`, syncs the folder (else the new name itself may be lost).
///
/// # Errors
/// When the disk refuses; what was written aside is then removed.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    stream_durably(path, |out| out.write_all(bytes).map_err(|source| ModelError::Io { path: path.to_owned(), source }))
}

/// As [`write_durably`], for contents that should never lie in memory as a whole.
///
/// # Errors
/// What `contents` returns, or when the disk refuses; what was written aside is then removed.
pub fn stream_durably(path: &Path, contents: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let aside = aside_of(path);
    let written = write_and_rename(&aside, path, contents);
    if written.is_err() {
        // The first error is the one worth reporting; a leftover is harmless and overwritten by the next attempt.
        let _ = fs::remove_file(&aside);
    }
    written
}

/// Copies `len` bytes so that they appear whole or not at all. Not through memory: a file may be larger than it.
///
/// # Errors
/// When `from` cannot be read or is shorter by now, or when the disk refuses; what was written aside is then removed.
pub fn copy_durably(from: &mut impl Read, len: u64, to: &Path) -> Result<()> {
    stream_durably(to, |out| {
        let copied = io::copy(&mut from.take(len), out).and_then(|n| match n == len {
            true => Ok(()),
            false => Err(io::Error::other(format!("it has {n} bytes by now, and had {len}"))),
        });
        copied.map_err(|source| ModelError::Io { path: to.to_owned(), source })
    })
}

/// Gives a whole file another name, and syncs the folders of both: else a power cut may leave it under the old one, or none.
///
/// # Errors
/// When the disk refuses.
pub fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    let io = |source: io::Error| ModelError::Io { path: from.to_owned(), source };
    failpoint::reached("file.rename").map_err(io)?;
    fs::rename(from, to).map_err(io)?;
    sync_folder_of(to).and_then(|()| sync_folder_of(from)).map_err(io)
}

fn aside_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

fn write_and_rename(
    aside: &Path,
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let io = |source: io::Error| ModelError::Io { path: path.to_owned(), source };
    let mut out = BufWriter::with_capacity(1 << 20, File::create(aside).map_err(io)?);
    failpoint::reached("file.write").map_err(io)?;
    contents(&mut out)?;
    let file = out.into_inner().map_err(|e| io(e.into_error()))?;
    failpoint::reached("file.sync").map_err(io)?;
    file.sync_all().map_err(io)?;
    failpoint::reached("file.rename").map_err(io)?;
    fs::rename(aside, path).map_err(io)?;
    sync_folder_of(path).map_err(io)
}

/// Without it, the name of the file in there may be lost.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    failpoint::reached("folder.sync")?;
    File::open(folder)?.sync_all()
}
