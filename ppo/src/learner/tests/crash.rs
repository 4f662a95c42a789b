//! kill -9 while the learner learns and publishes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{super::*, world::*};
use crate::rollout_log::{PageQuery, RolloutState, VersionState};

const FOLDER: &str = "HONED_LEARNER_CRASH_FOLDER";

/// Not a test of its own: the process that the other one kills. It serves, learns and says which version serves.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let mut world = Folder::at(PathBuf::from(folder)).open(|_| ());
    let learner = world.start_learner();
    for n in 1.. {
        world.feed();
        world.until_updates(&learner, n);
        let mut out = std::io::stdout().lock();
        writeln!(out, "promise {}", world.engine.live().0).unwrap();
        out.flush().unwrap();
    }
}

/// Runs the child until it has promised `n_lines` versions; a little later, at a moment that differs, it is killed.
fn last_promise(folder: &Folder, n_lines: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "learner::tests::crash::child", "--nocapture", "--quiet"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut last = None;
    let mut n_seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(version) = line.unwrap().strip_prefix("promise ") {
            last = Some(version.parse().unwrap());
            n_seen += 1;
        }
        if n_seen == n_lines {
            std::thread::park_timeout(Duration::from_millis(37 * n_lines as u64));
            child.kill().unwrap();
            n_seen += 1;
        }
    }
    child.wait().unwrap();
    last.unwrap()
}

/// Goal: whatever was promised serves after the crash; the rollouts of each version are exactly those that its row counts;
/// nothing is claimed, half published or left over. Method: three lives in one folder, each ended by SIGKILL.
#[test]
fn a_killed_learner_leaves_whole_versions_and_trains_nothing_twice() {
    let mut folder = Folder::new();
    for n_lines in [1, 2, 3] {
        let promised = last_promise(&folder, n_lines);
        let world = folder.open(|_| ());
        let live = world.registry.live().unwrap();
        assert!(live.version.0 >= promised, "{} serves, {promised} was promised", live.version);
        assert_eq!(world.engine.live(), live.version);
        world.registry.verify(live.version).unwrap();
        let rows = world.log.reader().page(&PageQuery { limit: 100_000, ..PageQuery::default() }).unwrap();
        let mut trained: BTreeMap<PolicyVersion, u64> = BTreeMap::new();
        let unfinished = world.log.reader().open_update().unwrap().map(|row| row.start.number);
        let used = unfinished.map_or_else(Vec::new, |number| world.log.reader().used_rollouts(number).unwrap());
        for row in &rows {
            let is_used = used.iter().any(|used| used.seq == row.seq);
            assert_eq!(row.state == RolloutState::Claimed, is_used, "claimed is what will be repeated, and only that");
            if let Some(version) = row.trained_version {
                *trained.entry(version).or_default() += 1;
            }
        }
        for version in world.registry.rows().unwrap() {
            let n = trained.remove(&version.version).unwrap_or(0);
            match version.state {
                // Retired ones were published too: a fast machine makes more versions than are kept.
                VersionState::Live | VersionState::Retained | VersionState::Retired => {
                    assert_eq!(n, version.n_rollouts, "{}", version.version)
                }
                _ => assert_eq!(n, 0, "{} was never published", version.version),
            }
        }
        assert_eq!(trained, BTreeMap::new(), "trained for versions that do not exist");
        folder = world.close();
    }
}
