//! `ppo.lora_rank` and `ppo.lora_alpha` changed over a data folder: what was learnt keeps its form, and the record says which.

use std::{fs, path::Path, time::Duration};

use policy::PolicyVersion;

use super::{
    super::*,
    replays::rebuild,
    resume::{N_UPDATES, copy_folder, finish, history, reopened},
    world::*,
};
use crate::rollout_log::{LogReader, Start};

/// Updates before the knobs change.
const BEFORE: usize = 2;

/// Rank and alpha.
type Knobs = (usize, f64);

/// With a rate of the value model's head that somebody has named, as the other rates of this world are: it stays, whatever the form.
fn with(config: &config::Ppo, (lora_rank, lora_alpha): Knobs) -> config::Ppo {
    config::Ppo { lora_rank, lora_alpha, value_head_learning_rate: config.value_learning_rate, ..config.clone() }
}

/// A folder with updates of these knobs, and rollouts for those that are still to come.
fn begun(knobs: Knobs) -> (Folder, config::Ppo) {
    let mut world = World::new(|config| {
        (config.max_staleness, config.parity_gap_max) = (64, 0.02);
        (config.keep_states, config.state_every) = (10, 1);
        *config = with(config, knobs);
    });
    let learner = world.start_learner();
    for n in 1..=BEFORE {
        world.feed();
        world.until_updates(&learner, n);
    }
    assert!(learner.shutdown(Duration::from_secs(600)));
    for _ in BEFORE..N_UPDATES as usize {
        world.feed();
    }
    let config = world.config.clone();
    (world.close(), config)
}

fn recorded(data_dir: &Path, update: u64) -> (Knobs, Start) {
    let row = LogReader::open(data_dir).unwrap().update(update).unwrap().unwrap();
    // Of the others some are out of range on purpose, so that no candidate passes.
    let lora: Vec<&str> = row.start.config.lines().filter(|line| line.starts_with("ppo.lora_")).collect();
    let config = config::Ppo::from_assignments(&lora.join("\n")).unwrap();
    ((config.lora_rank, config.lora_alpha), row.start.start)
}

/// Goal: other knobs change no bit of what goes on from a version, its states serve, and no record says what was not. Method: one
/// folder in copies, one that goes on with its knobs and others with other ones; then the last update computed again.
#[test]
fn other_knobs_change_nothing_of_what_goes_on() {
    for (knobs, others) in [((4, 32.0), &[(4, 128.0), (0, 32.0), (8, 32.0)][..]), ((0, 32.0), &[(4, 32.0)][..])] {
        let (folder, config) = begun(knobs);
        let mut expected = None;
        for changed in [&[knobs][..], others].concat() {
            let copy = tempfile::tempdir().unwrap();
            copy_folder(folder.path(), copy.path());
            let config = with(&config, changed);
            let mut world = reopened(copy.path().to_path_buf(), &config);
            let learner = finish(&mut world);
            assert_eq!(learner.counters().resets, 0, "{knobs:?} to {changed:?}");
            let data_dir = copy.path().join("data");
            let found = (history(&data_dir), learner.counters().replayed);
            assert_eq!(&found, expected.get_or_insert_with(|| found.clone()), "{knobs:?} to {changed:?}");
            assert_eq!(recorded(&data_dir, N_UPDATES - 1), (knobs, Start::Continued));
            world.close();
            let comparison = rebuild(&data_dir, &config, N_UPDATES - 1).unwrap();
            assert!(comparison.is_equal() && comparison.n_computed == 1, "{knobs:?} to {changed:?}: {comparison:?}");
        }
    }
}

/// Goal: version 0 begins with the knobs of today, and that goes on after a restart and can be computed again. Method: from whole
/// weights to adapters, back, and from one rank and alpha to another; the update after the activation, one after a restart, each
/// computed again with the states and from the very beginning.
#[test]
fn version_0_begins_with_the_knobs_of_today() {
    for (knobs, changed) in [((4, 32.0), (2, 8.0)), ((4, 32.0), (0, 32.0)), ((0, 32.0), (4, 32.0))] {
        let (folder, config) = begun(knobs);
        let config = with(&config, changed);
        let mut world = folder.open(|it| *it = config.clone());
        let learner = finish(&mut world);
        world.until_updates(&learner, N_UPDATES as usize);
        learner.activate(PolicyVersion::SFT, None, &Who::cli()).unwrap();
        feed_one(&mut world, N_UPDATES);
        let data_dir = world.log.data_dir().to_path_buf();
        assert_eq!(recorded(&data_dir, N_UPDATES - 1), (knobs, Start::Continued));
        assert_eq!(recorded(&data_dir, N_UPDATES), (changed, Start::Rebased));
        let mut world = world.close().open(|it| *it = config.clone());
        let learner = world.start_learner();
        feed_one(&mut world, N_UPDATES + 1);
        assert_eq!(learner.counters().resets, 0, "{knobs:?} to {changed:?}");
        assert_eq!(recorded(&data_dir, N_UPDATES + 1), (changed, Start::Continued));
        let folder = world.close();
        for _ in 0..2 {
            for update in [N_UPDATES, N_UPDATES + 1] {
                let comparison = rebuild(&data_dir, &with(&config, knobs), update).unwrap();
                assert!(comparison.is_equal(), "{knobs:?} to {changed:?}: {comparison:?}");
            }
            let states = fs::read_dir(data_dir.join("learner")).unwrap();
            states.for_each(|state| fs::remove_file(state.unwrap().path()).unwrap());
        }
        drop(folder);
    }
}

/// Traffic for this update, and its end.
fn feed_one(world: &mut World, update: u64) {
    world.feed();
    eventually("the update", || {
        let newest = world.log.reader().newest_update().unwrap();
        newest.is_some_and(|row| row.start.number == update)
    });
}

/// Goal: where version 0 is still live, the knobs of today count although there is a state of other ones. Method: a round in which
/// only the value model learnt leaves version 0 live; then another alpha.
#[test]
fn a_state_at_version_0_does_not_hold_the_knobs() {
    let mut world = World::new(|config| {
        *config = with(config, (4, 32.0));
        config.value_warmup_updates = 1;
    });
    world.start_learner();
    feed_one(&mut world, 0);
    let config = with(&world.config, (4, 128.0));
    let mut world = world.close().open(|it| *it = config.clone());
    assert_eq!(world.registry.live().unwrap().version, PolicyVersion::SFT);
    let learner = world.start_learner();
    feed_one(&mut world, 1);
    assert_eq!(recorded(world.log.data_dir(), 1), ((4, 128.0), Start::Rebased));
    assert_eq!(learner.counters().resets, 0);
    let data_dir = world.log.data_dir().to_path_buf();
    let _folder = world.close();
    assert!(rebuild(&data_dir, &config, 1).unwrap().is_equal());
}
