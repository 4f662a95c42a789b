//! An update that a process died in: repeated from its record, unless something forbids that.

use std::path::PathBuf;

use super::{
    super::*,
    resume::{WATCHED, copies_of, finish, reopened, stocked},
    world::*,
};
use crate::rollout_log::{LogSettings, PageQuery, Quarantine, RolloutState, UpdateRow};

/// A folder as a crash in the middle of the watched update left it.
struct Caught {
    path: PathBuf,
    config: config::Ppo,
    _into: tempfile::TempDir,
}

fn caught() -> Caught {
    let into = tempfile::tempdir().unwrap();
    let mut world = stocked(|_| ());
    let copies = copies_of(&world, into.path());
    finish(&mut world);
    let config = world.config.clone();
    world.close();
    let path = copies.lock().unwrap()[0].1.clone();
    Caught { path, config, _into: into }
}

/// Goal: what kills the process each time is given up. Method: a copy from the middle of an update, with a record that says
/// that three processes have died in it.
#[test]
fn an_update_that_keeps_killing_the_process_is_dropped() {
    let Caught { path, config, .. } = &caught();
    let connection = rusqlite::Connection::open(path.join("data/rollouts.sqlite")).unwrap();
    connection.execute("UPDATE updates SET n_attempts = 3 WHERE outcome = 'open'", []).unwrap();
    drop(connection);
    let mut world = reopened(path.clone(), config);
    let learner = world.start_learner();
    eventually("the next update", || learner.history().len() as u64 > WATCHED);
    assert_eq!(world.states()[&RolloutState::Dropped], config.rollouts_per_update);
    world.close();
}

/// Goal: whoever is caught while an update runs is not in the version that the restart publishes. Method: a copy from the middle of an
/// update, one of whose rollouts is of a user who is on the list when it is opened.
#[test]
fn an_unfinished_update_with_a_quarantined_user_is_not_repeated() {
    let Caught { path, config, .. } = &caught();
    let data = path.join("data");
    let connection = rusqlite::Connection::open(data.join("rollouts.sqlite")).unwrap();
    let caught = "UPDATE rollouts SET user = 'mallory' WHERE state = 'claimed' AND seq =
        (SELECT seq FROM update_rollouts WHERE number = 1 AND position = 3)";
    assert_eq!(connection.execute(caught, []).unwrap(), 1);
    drop(connection);
    let settings = LogSettings { commit_ms: 5, queue: 1024, rescore_on_feedback: false };
    RolloutLog::open_with(&data, &settings, Quarantine::parse("mallory")).unwrap().close();
    let mut world = reopened(path.clone(), config);
    // One is missing for the last update.
    world.feed();
    finish(&mut world);
    let row: UpdateRow = world.log.reader().update(WATCHED).unwrap().unwrap();
    assert_eq!(row.n_attempts, 1, "it began anew");
    let rows = world.log.reader().page(&PageQuery { limit: 100_000, ..PageQuery::default() }).unwrap();
    let caught: Vec<_> = rows.iter().filter(|row| row.rollout.user.is_some()).map(|row| row.state).collect();
    assert_eq!(caught, [RolloutState::Dropped]);
    world.close();
}

#[test]
fn another_configuration_gives_the_unfinished_claim_back() {
    let Caught { path, config, .. } = &caught();
    let config = &config::Ppo { policy_learning_rate: 2e-3, ..config.clone() };
    let mut world = reopened(path.clone(), config);
    let learner = finish(&mut world);
    let row: UpdateRow = world.log.reader().update(WATCHED).unwrap().unwrap();
    assert_eq!((row.start.config, row.n_attempts), (config.assignments(), 1), "it began anew");
    assert_eq!(learner.counters().resets, 0);
    world.close();
}
