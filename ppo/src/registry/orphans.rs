//! Files of the versions folder that no row wants, as an open finds them.
//!
//! Whatever this code leaves behind when it dies can be told for its own: a half-written file by its name, a number that was given
//! and not yet registered by its mark, everything else by its row. Such files go. A whole file with neither a row nor a mark
//! belongs to a database that an older copy was put in place of, or somebody laid it there: it may be all that is left of a
//! trained version, so it is moved aside, into `unknown`, and named.
//!
//! What lies aside is bounded: the newest of it stays, as many versions as one folder holds at most beside version 0. So one old
//! copy of a database costs nothing, and old copies without end cost no more disk than the folder itself.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use policy::{PolicyVersion, checkpoint};

use super::{Registry, RegistryError, files};
use crate::rollout_log::VersionState;

/// The folder for them, inside the versions folder.
const ASIDE: &str = "unknown";
/// Versions that lie in the versions folder beside those of `ppo.keep_versions`: the live one, and one that it took over from.
const N_BESIDE_KEPT: usize = 2;

/// What becomes of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    MovesAside,
}

impl Registry {
    /// Removes what this code left behind, and moves aside what it did not.
    pub(super) fn clear_up(&self) -> Result<(), RegistryError> {
        let states = self.rows()?.into_iter().map(|row| (row.version, row.state)).collect();
        self.remove_and_move(&states)
    }

    fn remove_and_move(&self, states: &BTreeMap<PolicyVersion, VersionState>) -> Result<(), RegistryError> {
        let io = |source| RegistryError::io(&self.folder, source);
        let names = files::names(&self.folder).map_err(io)?;
        let names: Vec<String> = names.into_iter().filter(|name| files::is_ours(name)).collect();
        let marked = names.iter().filter(|name| files::is_mark(name)).filter_map(|name| files::owner(name)).collect();
        let of_fate =
            |fate| -> Vec<&String> { names.iter().filter(|name| fate_of(name, states, &marked) == fate).collect() };
        let gone = of_fate(Fate::Goes);
        for name in &gone {
            fs::remove_file(self.folder.join(name)).map_err(io)?;
        }
        if !gone.is_empty() {
            tracing::warn!(files = ?gone, "removed files of versions that were never published or are retired");
        }
        let unknown = of_fate(Fate::MovesAside);
        if !unknown.is_empty() {
            self.move_aside(&unknown)?;
        }
        Ok(())
    }

    fn move_aside(&self, names: &[&String]) -> Result<(), RegistryError> {
        let io = |source| RegistryError::io(&self.folder, source);
        let aside = self.folder.join(ASIDE);
        fs::create_dir_all(&aside).map_err(io)?;
        let mut by_stem: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (stem, suffix) in names.iter().filter_map(|name| name.split_once('.')) {
            by_stem.entry(stem).or_default().push(suffix);
        }
        for (stem, suffixes) in by_stem {
            // Numbers are given again where their rows are gone, so another file may lie there under this name.
            let free = free_stem(&aside, stem).map_err(io)?;
            for suffix in suffixes {
                let (from, to) = (self.folder.join(format!("{stem}.{suffix}")), aside.join(format!("{free}.{suffix}")));
                checkpoint::rename_durably(&from, &to)?;
                tracing::warn!(
                    from = %from.display(),
                    to = %to.display(),
                    "moved aside a file of a version that rollouts.sqlite does not know"
                );
            }
        }
        bound(&aside, self.retention.versions.saturating_add(N_BESIDE_KEPT)).map_err(io)
    }
}

fn fate_of(name: &str, states: &BTreeMap<PolicyVersion, VersionState>, marked: &BTreeSet<PolicyVersion>) -> Fate {
    let Some(version) = files::owner(name) else { return Fate::Goes };
    match states.get(&version) {
        Some(VersionState::Live | VersionState::Retained) if !files::is_mark(name) => Fate::Stays,
        None if !marked.contains(&version) => Fate::MovesAside,
        _ => Fate::Goes,
    }
}

/// `stem`, or the first of `stem-2`, `stem-3` and so on that no file there begins with.
fn free_stem(folder: &Path, stem: &str) -> io::Result<String> {
    // Folders take a name too.
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: Vec<String> = names.filter_map(io::Result::transpose).collect::<io::Result<_>>()?;
    let taken: BTreeSet<&str> = names.iter().filter_map(|name| Some(name.split_once('.')?.0)).collect();
    let mut stems = std::iter::once(stem.to_owned()).chain((2_u64..).map(|n| format!("{stem}-{n}")));
    Ok(stems.find(|stem| !taken.contains(stem.as_str())).expect("a folder holds fewer names than there are numbers"))
}

/// Whether [`free_stem`] gives such names: the others there are somebody's own.
fn is_moved(stem: &str) -> bool {
    stem.strip_prefix("policy-").is_some_and(|rest| rest.split('-').take(3).all(|number| number.parse::<u64>().is_ok()))
}

/// Leaves the files of the `n` versions that were written last.
fn bound(aside: &Path, n: usize) -> io::Result<()> {
    let mut by_stem: BTreeMap<String, (SystemTime, Vec<PathBuf>)> = BTreeMap::new();
    for name in files::names(aside)? {
        let Some((stem, _)) = name.split_once('.').filter(|(stem, _)| is_moved(stem)) else { continue };
        let path = aside.join(&name);
        let written = fs::symlink_metadata(&path)?.modified()?;
        let (newest, paths) = by_stem.entry(stem.to_owned()).or_insert((written, Vec::new()));
        *newest = written.max(*newest);
        paths.push(path);
    }
    let mut versions: Vec<(SystemTime, Vec<PathBuf>)> = by_stem.into_values().collect();
    versions.sort_by_key(|(written, _)| Reverse(*written));
    for path in versions.into_iter().skip(n).flat_map(|(_, paths)| paths) {
        fs::remove_file(&path)?;
        tracing::warn!(file = %path.display(), n_kept = n, "removed an older file that had been moved aside");
    }
    Ok(())
}
