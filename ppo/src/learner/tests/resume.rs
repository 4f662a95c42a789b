//! Bit-exact resume: whatever moment a process dies at, the digests are those of a run that nobody interrupted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{super::*, world::*};
use crate::{
    registry::Candidate,
    rollout_log::{LogReader, RolloutState, Start},
    state::StateFolder,
    sync_point,
    test_world::served_model,
};

/// Updates of every run.
pub(super) const N_UPDATES: u64 = 4;
/// The update during which copies are taken: one before it, one after it.
pub(super) const WATCHED: u64 = 1;

/// Rollouts of all updates are there before the first, so that no run depends on what its engine says when.
pub(super) fn stocked(change: impl FnOnce(&mut config::Ppo)) -> World {
    let mut world = World::new(|config| {
        config.max_staleness = 64;
        // Said, so that the learner does not derive it: a record's configuration is then the very one of the test.
        config.parity_gap_max = 0.02;
        config.epochs = 2;
        change(config);
    });
    world.serve(N_UPDATES * world.config.rollouts_per_update as u64);
    world.judge(planted);
    world
}

pub(super) fn reopened(path: PathBuf, like: &config::Ppo) -> World {
    Folder::at(path).open(|config| *config = like.clone())
}

/// Runs until the last update has ended.
pub(super) fn finish(world: &mut World) -> Learner {
    let learner = world.start_learner();
    eventually("the last update", || {
        let newest = world.log.reader().newest_update().unwrap();
        newest.is_some_and(|row| row.start.number + 1 == N_UPDATES)
    });
    learner
}

/// What must be equal: what each update began and ended with. Numbers of versions may differ, since a dead candidate's is
/// never given again.
pub(super) fn history(data_dir: &Path) -> Vec<[String; 4]> {
    let reader = LogReader::open(data_dir).unwrap();
    let line = |number| {
        let row = reader.update(number).unwrap().unwrap();
        let end = row.end.unwrap();
        [row.start.state_before, end.outcome.as_str().to_string(), end.digest.unwrap_or_default(), end.state_after]
    };
    (0..N_UPDATES).map(line).collect()
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            // The index of the write-ahead log is memory of the processes that use it, not of the disk.
            false if entry.file_name().to_string_lossy().ends_with("-shm") => {}
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Copies the folder when a moment comes for the first time, as a crash there would leave it.
pub(super) fn copy_at(world: &World, moment: &'static str, to: &Path) {
    let (root, to) = (world.folder_path().to_path_buf(), to.to_path_buf());
    let mut is_done = false;
    sync_point::watch(world.log.data_dir(), move |now| {
        if now == moment && !std::mem::replace(&mut is_done, true) {
            copy_folder(&root, &to);
        }
    });
}

/// Copies the folder at every moment of the watched update, as a crash there would leave it.
pub(super) fn copies_of(world: &World, into: &Path) -> Arc<Mutex<Vec<(&'static str, PathBuf)>>> {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (root, into, taken) = (world.folder_path().to_path_buf(), into.to_path_buf(), Arc::clone(&copies));
    let mut n_claimed = 0;
    sync_point::watch(world.log.data_dir(), move |moment| {
        n_claimed += u64::from(moment == "claimed");
        if n_claimed == WATCHED + 1 {
            let to = into.join(moment);
            copy_folder(&root, &to);
            taken.lock().unwrap().push((moment, to));
        }
    });
    copies
}

/// Ends the run and checks every copy of it, with the states that it has and without any.
fn check_every_copy(mut world: World, moments: &[&str]) {
    let into = tempfile::tempdir().unwrap();
    let copies = copies_of(&world, into.path());
    finish(&mut world);
    let config = world.config.clone();
    let folder = world.close();
    let expected = history(&folder.path().join("data"));
    let copies = std::mem::take(&mut *copies.lock().unwrap());
    assert_eq!(copies.iter().map(|(moment, _)| *moment).collect::<Vec<_>>(), moments);
    for (at, (moment, path)) in copies.into_iter().enumerate() {
        let states = StateFolder::of(&path.join("data"));
        if at % 2 == 0 {
            fs::remove_dir_all(states.path()).unwrap();
        }
        let mut world = reopened(path, &config);
        let learner = finish(&mut world);
        assert_eq!(history(world.log.data_dir()), expected, "died at: {moment}");
        let counters = learner.counters();
        assert_eq!(counters.resets, 0, "died at: {moment}");
        assert!(at % 2 == 1 || counters.replayed > 0, "without a state, updates are computed again: {moment}");
        assert_eq!(world.states().get(&RolloutState::Claimed), None);
        assert_eq!(world.registry.live().unwrap().digest, live_digest(folder.path()), "died at: {moment}");
        world.close();
    }
}

fn live_digest(root: &Path) -> String {
    LogReader::open(&root.join("data")).unwrap().live_version().unwrap().unwrap().digest
}

#[test]
fn a_death_at_any_moment_changes_no_bit_of_what_is_published() {
    let moments = ["claimed", "written", "registered", "judged", "committed", "ended", "saved"];
    check_every_copy(stocked(|_| ()), &moments);
}

/// A KL limit below zero cannot be met: the gate refuses whatever comes.
pub(super) fn refuse_everything(config: &mut config::Ppo) {
    config.kl_adaptive = true;
    config.kl_target = -1.0;
}

/// The same where the gate refuses every candidate: the policy goes back, what the value model learnt stays; and after the
/// third refusal, that goes back too, also when the process has died since the first.
#[test]
fn a_death_at_any_moment_changes_no_bit_of_what_refused_updates_leave() {
    let moments = ["claimed", "written", "registered", "judged", "ended", "saved"];
    check_every_copy(stocked(refuse_everything), &moments);
}

/// The same where no round has more than the policy's weights to go back to, as with a large model: the third refusal is
/// answered with fresh moments.
#[test]
fn a_death_at_any_moment_changes_no_bit_without_whole_snapshots() {
    let moments = ["claimed", "written", "registered", "judged", "ended", "saved"];
    let change = |config: &mut config::Ppo| {
        refuse_everything(config);
        config.snapshot_mib = 0;
    };
    check_every_copy(stocked(change), &moments);
}

/// And with adapters, whose versions are not whole models.
#[test]
fn a_death_at_any_moment_changes_no_bit_of_an_adapter() {
    let moments = ["claimed", "written", "registered", "judged", "committed", "ended", "saved"];
    let change = |config: &mut config::Ppo| (config.lora_rank, config.policy_learning_rate) = (2, 1e-3);
    check_every_copy(stocked(change), &moments);
}

/// And where nobody runs the policy before the steps, from rollouts of older and older versions, with whole weights and adapters.
#[test]
fn a_death_at_any_moment_changes_no_bit_without_the_pass_of_the_old_policy() {
    let moments = ["claimed", "written", "registered", "judged", "committed", "ended", "saved"];
    for lora_rank in [0, 2] {
        let change = |config: &mut config::Ppo| {
            spare_the_pass(config);
            config.lora_rank = lora_rank;
        };
        check_every_copy(stocked(change), &moments);
    }
}

/// Each minibatch guesses the old log-probs.
pub(super) fn spare_the_pass(config: &mut config::Ppo) {
    (config.proximal, config.importance) = ("log_linear".to_string(), "token_truncate".to_string());
}

/// And where no step is made, because the data are somebody else's.
#[test]
fn updates_without_a_step_are_part_of_the_history() {
    let world = stocked(|config| {
        config.is_geo_low = 900.0;
        config.is_geo_high = 1000.0;
    });
    check_every_copy(world, &["claimed", "settled", "ended", "saved"]);
}

/// Goal: a state that is not the one of the record is an error and a fresh start, never silence. Method: the recorded
/// fingerprint of the last update is another, and there is no state file to begin with.
#[test]
fn a_history_that_does_not_come_out_is_reported_and_moments_begin_anew() {
    let mut world = stocked(|_| ());
    finish(&mut world);
    let config = world.config.clone();
    let folder = world.close();
    fs::remove_dir_all(folder.path().join("data/learner")).unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("data/rollouts.sqlite")).unwrap();
    connection.execute("UPDATE updates SET state_after = 'another' WHERE number = 1", []).unwrap();
    drop(connection);
    let mut world = folder.open(|it| *it = config);
    let learner = world.start_learner();
    eventually("the fresh start", || learner.counters().resets == 1);
    world.feed();
    eventually("an update", || learner.history().len() as u64 == N_UPDATES + 1);
    let row = world.log.reader().update(N_UPDATES).unwrap().unwrap();
    assert_eq!((row.start.start, row.start.number), (Start::Fresh, N_UPDATES));
    world.close();
}

/// Goal: where nobody has learnt anything yet, nothing is lost. Method: a version from outside is live before the first learner is.
#[test]
fn a_learner_that_begins_at_a_version_from_outside_misses_nothing() {
    let world = World::new(|_| ());
    let (version, parent) = (world.registry.next_version().unwrap(), PolicyVersion::SFT);
    let mut brought = served_model();
    let norm = (&brought.tensors["output_norm.weight"] * 1.01).unwrap();
    brought.tensors.insert("output_norm.weight".to_string(), norm);
    let digest = brought.write(&world.registry.path(version)).unwrap();
    world.registry.register(&Candidate { version, parent, digest, n_rollouts: 0 }).unwrap();
    world.registry.keep(version, std::collections::BTreeMap::<String, f64>::new()).unwrap();
    world.registry.activate(version, None).unwrap();
    let config = world.config.clone();
    let mut world = world.close().open(|it| *it = config);
    let learner = world.start_learner();
    world.feed();
    world.until_updates(&learner, 1);
    let row = world.log.reader().update(0).unwrap().unwrap();
    assert_eq!((row.start.start, row.start.parent), (Start::Fresh, version));
    assert_eq!(learner.counters().resets, 0);
    world.close();
}

/// Goal: an activation is part of the history. Method: two updates, back to version 1, two more; then die, without a state,
/// and come back.
#[test]
fn a_rollback_is_followed_when_the_history_is_computed_again() {
    let mut world = stocked(|_| ());
    let learner = world.start_learner();
    learner.pause().unwrap();
    for n in 1..=2 {
        learner.step().unwrap();
        world.until_updates(&learner, n);
    }
    learner.activate(PolicyVersion(1), None, &Who::cli()).unwrap();
    for n in 3..=N_UPDATES as usize {
        learner.step().unwrap();
        world.until_updates(&learner, n);
    }
    let config = world.config.clone();
    let folder = world.close();
    let expected = history(&folder.path().join("data"));
    fs::remove_dir_all(folder.path().join("data/learner")).unwrap();
    let mut world = folder.open(|it| *it = config);
    let learner = world.start_learner();
    eventually("the updates", || learner.counters().replayed == N_UPDATES);
    assert_eq!((history(world.log.data_dir()), learner.counters().resets), (expected, 0));
    world.close();
}
