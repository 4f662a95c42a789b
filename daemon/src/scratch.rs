//! A folder that goes when the work that needed it is over.

use std::path::{Path, PathBuf};

/// Removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new folder among the system's temporary files.
    pub(crate) fn new(what: &str) -> std::io::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("honed-{what}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies where the system looks after it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
