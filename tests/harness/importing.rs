//! A daemon that takes models in from a folder.

use super::{Builder, TestDaemon};

/// The daemon and its folders.
pub(crate) struct World {
    pub(crate) daemon: TestDaemon,
    /// `daemon.import_dir`.
    pub(crate) models: tempfile::TempDir,
    pub(crate) data: tempfile::TempDir,
}

/// Starts it with what `change` adds to the configuration.
pub(crate) fn world(change: impl FnOnce(Builder) -> Builder) -> World {
    let (models, data) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let builder = TestDaemon::builder().set(format!("daemon.import_dir={}", models.path().display()));
    let daemon = change(builder).start_in(data.path());
    World { daemon, models, data }
}
