//! A file that appears whole or not at all, also across a power cut.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::model_error::{ModelError, Result};

/// Writes aside, syncs the bytes, renames over `path`, syncs the folder (else the new name itself may be lost).
///
/// # Errors
/// When the disk refuses; what was written aside is then removed.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = aside_of(path);
    let written = write_and_rename(&aside, path, bytes);
    if written.is_err() {
        // The first error is the one worth reporting; a leftover is harmless and overwritten by the next attempt.
        let _ = fs::remove_file(&aside);
    }
    written.map_err(|source| ModelError::Io {
        path: path.to_owned(),
        source,
    })
}

fn aside_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

fn write_and_rename(aside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(aside, path)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}
