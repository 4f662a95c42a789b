//! What a restart needs is written before what it could be computed from may go.

use std::fs;

use policy::PolicyVersion;

use super::{
    super::*,
    resume::{copy_at, copy_folder, reopened, stocked},
    world::*,
};
use crate::{
    rollout_log::{LogReader, Start},
    state::StateFolder,
    update::pretraining_examples,
};

/// Goal: the weights that the learner went over to may be retired. Method: two updates, back to version 1, one more; a death before
/// its state is written, and version 1 is gone by then.
#[test]
fn the_state_after_an_activation_is_there_before_its_weights_may_go() {
    let mut world = stocked(|config| config.keep_states = 10);
    let learner = world.start_learner();
    learner.pause().unwrap();
    for n in 1..=2 {
        learner.step().unwrap();
        world.until_updates(&learner, n);
    }
    let one = PolicyVersion(1);
    learner.activate(one, None, &Who::cli()).unwrap();
    let states = StateFolder::of(world.log.data_dir());
    let stands_at = || states.file(2).head().ok().map(|head| (head.start, head.version));
    eventually("its state", || stands_at() == Some((Start::Rebased, one)));
    learner.step().unwrap();
    world.until_updates(&learner, 3);
    assert_eq!(world.registry.live().unwrap().version, PolicyVersion(3));
    let (config, weights) = (world.config.clone(), world.registry.path(one));
    let folder = world.close();
    fs::remove_file(states.file(3).path()).unwrap();
    fs::remove_file(weights).unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("data/rollouts.sqlite")).unwrap();
    connection.execute("UPDATE versions SET state = 'retired' WHERE version = 1", []).unwrap();
    drop(connection);
    let mut world = folder.open(|it| *it = config);
    let learner = world.start_learner();
    eventually("the learner to wait", || learner.status().n_updates == 3 && learner.status().version.0 == 3);
    eventually("the update", || learner.counters().replayed == 1);
    assert_eq!(learner.counters().resets, 0);
    world.close();
}

/// Goal: a user is forgotten, and what was learnt is not. Method: a folder that refused the state after the only update and takes it
/// now; a death after one of its rollouts has gone.
#[test]
fn the_state_is_there_when_what_it_was_computed_from_is_forgotten() {
    let mut world = World::new(|_| ());
    let learner = world.start_learner();
    let rests = || learner.status().state == LearnerState::Waiting;
    eventually("the learner to wait", rests);
    let states = StateFolder::of(world.log.data_dir());
    fs::remove_dir_all(states.path()).unwrap();
    fs::write(states.path(), b"").unwrap();
    world.feed();
    world.until_updates(&learner, 1);
    eventually("the learner to wait", rests);
    fs::remove_file(states.path()).unwrap();
    fs::create_dir(states.path()).unwrap();
    let connection = rusqlite::Connection::open(world.folder_path().join("data/rollouts.sqlite")).unwrap();
    connection.execute("UPDATE rollouts SET user = 'ann' WHERE seq = 1 AND state = 'trained'", []).unwrap();
    drop(connection);
    assert_eq!(world.log.forget_user("ann", &Who::cli()).unwrap().n_rollouts, 1);
    eventually("the state", || states.file(1).path().exists());
    let into = tempfile::tempdir().unwrap();
    copy_folder(world.folder_path(), into.path());
    let config = world.config.clone();
    world.close();
    let mut world = reopened(into.path().to_path_buf(), &config);
    let learner = world.start_learner();
    eventually("the learner to wait", || learner.status().state == LearnerState::Waiting);
    assert_eq!((learner.counters().resets, learner.status().n_updates), (0, 1));
    world.close();
}

/// Goal: no update is repeated under a record that is not true any more. Method: a death in an update that mixes text in; then
/// another text at the next start, and a record that names another number of threads.
#[test]
fn another_pretraining_text_gives_the_unfinished_claim_back() {
    let texts = |start: u32| -> Arc<[Sequence]> {
        let document: Vec<TokenId> = (start..start + 40).map(TokenId).collect();
        pretraining_examples(&[document], 6).into()
    };
    let start = |world: &mut World, texts: Arc<[Sequence]>| {
        let learner = Learner::start(LearnerSetup { pretraining: texts, ..world.setup(None) }).unwrap();
        world.learner = Some(learner.clone());
        learner
    };
    let into = tempfile::tempdir().unwrap();
    let mut world = stocked(|config| (config.ptx, config.ptx_tokens) = ("auto".to_string(), 6));
    copy_at(&world, "claimed", into.path());
    let learner = start(&mut world, texts(5));
    world.until_updates(&learner, 1);
    let config = world.config.clone();
    world.close();
    let claimed = LogReader::open(&into.path().join("data")).unwrap().open_update().unwrap().unwrap();
    let threads = tempfile::tempdir().unwrap();
    copy_folder(into.path(), threads.path());
    let log = rusqlite::Connection::open(threads.path().join("data/rollouts.sqlite")).unwrap();
    log.execute("UPDATE updates SET n_threads = n_threads + 1", []).unwrap();
    drop(log);
    let mut world = reopened(into.path().to_path_buf(), &config);
    let learner = start(&mut world, texts(100));
    world.until_updates(&learner, 1);
    let row = world.log.reader().update(0).unwrap().unwrap();
    assert_eq!((claimed.start.number, row.n_attempts), (0, 1), "it began anew");
    assert_ne!(row.start.pretraining, claimed.start.pretraining);
    world.close();
    let mut world = reopened(threads.path().to_path_buf(), &config);
    let learner = start(&mut world, texts(5));
    world.until_updates(&learner, 1);
    let row = world.log.reader().update(0).unwrap().unwrap();
    assert_eq!((row.start.n_threads, row.n_attempts), (claimed.start.n_threads, 1), "it began anew");
    world.close();
}
