//! The watched folder: model files that appear in it become versions.
//!
//! It is looked at from time to time; nothing is asked of the file system but its listing, so it may be a network share. A file
//! counts when two looks in a row find it with the same size and time of change: one that is still being copied is left alone,
//! and one that was renamed into its place is taken at the second look. Each state of a file is taken until there is a verdict
//! on it; what a restart finds again is known by its digest, and known weights under another name are told of once. What failed
//! for no fault of the file (a full disk, a judge that is away) is tried again after a pause that doubles, and told when it first
//! fails and when it fails otherwise.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ppo::{
    import::{ImportError, Importer, Wish},
    rollout_log::{ImportSource, Who},
};

use crate::{activation::Activator, lookout::Lookout};

/// Files that are told apart at most; beyond it the folder is no drop-off but an archive, and that is said.
const FILES_MAX: usize = 4096;

/// First pause before a file is tried again that something else failed over; it doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// What tells two states of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// One file as it was last seen.
struct Seen {
    stamp: Stamp,
    next: Next,
}

/// What is to be done about this state of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing more.
    Nothing,
    /// To take it at the next look.
    Take,
    /// To try it again.
    TryAgain(Failure),
}

/// What failed over a file, for no fault of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    why: String,
    pause: Duration,
    due: Instant,
}

impl Failure {
    /// The next pause is twice the last one.
    fn after(last: Option<&Failure>, why: String) -> Failure {
        let pause = last.map_or(RETRY_MIN, |last| (last.pause * 2).min(RETRY_MAX));
        Failure { why, pause, due: Instant::now() + pause }
    }
}

/// Looks every `pause`; what passes is made live where `promote` is given. A file that takes long to judge is not waited for.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn start(importer: Importer, pause: Duration, promote: Option<Activator>) -> std::io::Result<Lookout> {
    let mut watcher = Watcher { importer, promote, seen: HashMap::new() };
    Lookout::start("import-watch", pause, move || {
        if let Err(error) = watcher.look() {
            tracing::warn!(%error, folder = %watcher.importer.intake().root().display(), "the import folder cannot be read");
        }
    })
}

struct Watcher {
    importer: Importer,
    promote: Option<Activator>,
    seen: HashMap<PathBuf, Seen>,
}

impl Watcher {
    /// Takes what has stood still since the last look, in the order of names.
    fn look(&mut self) -> std::io::Result<()> {
        let found = listing(self.importer.intake().root())?;
        self.seen.retain(|name, _| found.iter().any(|(there, _)| there == name));
        for (name, stamp) in found {
            let next = match self.seen.get(&name) {
                Some(seen) if seen.stamp == stamp => match &seen.next {
                    Next::Nothing => continue,
                    Next::TryAgain(failure) if failure.due > Instant::now() => continue,
                    Next::TryAgain(failure) => self.take(&name, Some(failure)),
                    Next::Take => self.take(&name, None),
                },
                _ => Next::Take,
            };
            self.seen.insert(name, Seen { stamp, next });
        }
        Ok(())
    }

    /// Has a file taken in; what is to be done about it then.
    fn take(&self, name: &Path, last: Option<&Failure>) -> Next {
        let activator = self.promote.as_ref();
        let who = &Who::folder();
        let promote = activator.map(|activator| move |version| activator.activate(version, None, who));
        let promote = promote.as_ref().map(|promote| promote as ppo::import::Promote<'_>);
        match self.importer.load(Wish { path: name, source: ImportSource::Folder, who, promote }) {
            // Told in the log by the importer itself.
            Ok(_) => Next::Nothing,
            Err(ImportError::Busy | ImportError::Stopping | ImportError::Full) => {
                last.cloned().map_or(Next::Take, Next::TryAgain)
            }
            Err(ImportError::Known { version, .. }) => {
                tracing::debug!(file = %name.display(), %version, "known already");
                Next::Nothing
            }
            Err(error) if error.is_final() => Next::Nothing,
            Err(error) => {
                let why = error.to_string();
                let is_news = last.is_none_or(|last| !is_same(&last.why, &why));
                let failure = Failure::after(last, why);
                if is_news {
                    let (file, pause_s) = (name.display(), failure.pause.as_secs());
                    tracing::warn!(%file, %error, pause_s, "a model from outside could not be taken; it is tried again");
                }
                Next::TryAgain(failure)
            }
        }
    }
}

/// Whether two failures differ in their numbers only: each attempt has another version's.
fn is_same(one: &str, other: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    words(one) == words(other)
}

/// Names of model files with what tells their states apart, sorted. Links and pipes too: whoever left one is told.
fn listing(folder: &Path) -> std::io::Result<Vec<(PathBuf, Stamp)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let is_hidden = name.to_string_lossy().starts_with('.');
        if is_hidden || name.extension().is_none_or(|ending| ending != "gguf" && ending != "safetensors") {
            continue;
        }
        if found.len() == FILES_MAX {
            return Err(std::io::Error::other(format!("it holds more than {FILES_MAX} models")));
        }
        // Gone between the listing and this is as good as never there.
        if let Ok(about) = entry.metadata() {
            let changed = (about.mtime(), about.mtime_nsec());
            found.push((name, Stamp { inode: about.ino(), bytes: about.len(), changed }));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}
