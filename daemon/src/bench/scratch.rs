//! A folder that goes when its measurement is over.

use std::path::{Path, PathBuf};

/// Removed when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A new folder among the system's temporary files.
    pub(super) fn new(what: &str) -> std::io::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("honed-bench-{what}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies where the system looks after it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
