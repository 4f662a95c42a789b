//! A halt is on the disk before what it is about, and goes only when somebody has answered it.

use std::{
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use crossbeam_channel::bounded;
use policy::PolicyVersion;

use super::{
    super::{Command, Shared, bell::Bell, halt, past::Past, rollback::Rollback, watching::Breach, *},
    resume::{copy_at, reopened},
    watching::{IMPORT, badly, bring, go_live, world_with_an_import},
    world::*,
};
use crate::{
    publish::{PublishError, Switch, Switched},
    rollout_log::Action,
    stats::{LearnerCounters, UpdateOutcome},
};

/// What a learner says that begins with a folder as a death has left it.
fn reason_after_death(path: &Path, config: &config::Ppo) -> String {
    let mut world = reopened(path.to_path_buf(), config);
    let learner = world.start_learner();
    assert!(learner.status().is_paused, "it learns on");
    eventually("the halt", || matches!(learner.status().state, LearnerState::Halted(_)));
    let why = learner.status().state.reason().unwrap().to_string();
    world.close();
    why
}

/// Goal: a rollback that a process dies right after halts the next one. Method: the folder as it is when the row has been changed and
/// nobody has been told.
#[test]
fn a_death_right_after_a_rollback_leaves_learning_halted() {
    let into = tempfile::tempdir().unwrap();
    let mut world = world_with_an_import(|_| ());
    copy_at(&world, "rolled_back", into.path());
    go_live(&world, IMPORT);
    world.serve_ending(64);
    world.judge(badly);
    let learner = world.start_learner();
    eventually("the pause", || matches!(learner.status().state, LearnerState::Halted(_)));
    assert_eq!(learner.counters().rollbacks, 1);
    let config = world.config.clone();
    world.close();
    let why = reason_after_death(into.path(), &config);
    assert!(why.contains("policy@1 was rolled back to policy@0"), "{why}");
}

/// Goal: the same of a guard that asks for the operator, whose round has used up the data that it tripped over. Method: a budget that
/// the first version exceeds, after which the operator resumes; the folder as it is when the second round is settled.
#[test]
fn a_death_right_after_a_guard_tripped_leaves_learning_halted() {
    let into = tempfile::tempdir().unwrap();
    let mut world = World::new(|config| {
        config.policy_learning_rate = 2e-2;
        (config.stop_kl, config.skip_kl, config.kl_budget) = (10.0, 10.0, 1e-3);
        config.gate = "observe".to_string();
    });
    copy_at(&world, "settled", into.path());
    let learner = world.start_learner();
    for n in 1..=2 {
        world.feed();
        world.until_updates(&learner, n);
        eventually("the pause", || matches!(learner.status().state, LearnerState::Halted(_)));
        learner.resume().unwrap();
    }
    assert_eq!(learner.history()[1].outcome, UpdateOutcome::NoStep);
    let config = world.config.clone();
    world.close();
    let why = reason_after_death(into.path(), &config);
    assert!(why.contains("kl_budget"), "{why}");
}

/// Goal: a rollback that comes to nothing halts nobody, and what halted before it still does. Method: another version is live than the
/// watch has seen, and the good one is in memory or not.
#[test]
fn a_rollback_that_fails_leaves_what_was_there() {
    let world = world_with_an_import(|_| ());
    let (_learner, rollback, _commands) = without_an_owner(&world);
    let data_dir = world.log.data_dir();
    let is_not_there = bring(&world, PolicyVersion::SFT);
    for before in [None, Some("another reason")] {
        before.iter().for_each(|why| drop(rollback.halt.turn().announce((*why).to_string())));
        for good in [PolicyVersion::SFT, is_not_there] {
            assert!(rollback.at_once(&Breach { good, ..was_worse() }).is_err());
            assert_eq!((halt::read(data_dir).as_deref(), rollback.unheard()), (before, None), "{good}");
            assert_eq!(rollback.pending(), None);
        }
    }
    world.close();
}

/// Goal: learning stands still as soon as a version must go, and says one thing at a time. Method: a good version that is not in
/// memory, called for twice, with another reason before; then it is there.
#[test]
fn a_rollback_that_has_to_be_read_for_pauses_at_once() {
    let world = world_with_an_import(|_| ());
    let (_learner, rollback, _commands) = without_an_owner(&world);
    drop(rollback.halt.turn().announce("another reason".to_string()));
    let next = bring(&world, IMPORT);
    go_live(&world, next);
    let breach = Breach { live: next, good: IMPORT, ..was_worse() };
    let halted = || halt::read(world.log.data_dir()).unwrap();
    for _ in 0..2 {
        assert_eq!(rollback.at_once(&breach).unwrap(), Switched::NotInMemory);
        let why = halted();
        assert!(why.starts_with("policy@2 has to be rolled back: it was worse; look at the daemon's log"), "{why}");
        assert!(why.ends_with("). Before that: another reason"), "{why}");
        assert_eq!(rollback.unheard(), Some(halted()));
    }
    let n_paused = || {
        let acts = world.log.reader().audit(0, 1000).unwrap();
        acts.iter().filter(|row| row.act.action == Action::Pause).count()
    };
    assert_eq!(n_paused(), 1, "it is said once");
    world.engine.load(IMPORT, &world.registry.path(IMPORT)).unwrap();
    assert_eq!(rollback.at_once(&breach).unwrap(), Switched::Done);
    let why = halted();
    assert!(why.starts_with("policy@2 was rolled back to policy@1: it was worse"), "{why}");
    assert!(why.ends_with(". Before that: another reason") && !why.contains("has to be"), "{why}");
    world.close();
}

/// Goal: a halt is answered by whoever has seen it and was heard, and by nobody else. Method: a learner whose queue is full and which
/// nobody empties; then commands that come before and after a second rollback.
#[test]
fn a_halt_stays_until_its_answer_is_heard() {
    let world = world_with_an_import(|_| ());
    let (learner, rollback, commands) = without_an_owner(&world);
    let roll_back = || {
        let load = || Ok(world.engine.load(IMPORT, &world.registry.path(IMPORT))?);
        rollback.switch.load_and_activate(IMPORT, None, &Who::cli(), load).unwrap();
        let breach = was_worse();
        assert_eq!(rollback.at_once(&breach).unwrap(), Switched::Done);
    };
    let halted = || halt::read(world.log.data_dir()).filter(|_| rollback.unheard().is_some());
    roll_back();
    learner.pause().unwrap();
    assert!(matches!(learner.resume(), Err(LearnerError::Busy)));
    assert!(learner.status().is_paused && halted().is_some(), "nobody has heard the answer");
    assert!(matches!(commands.recv(), Ok(Command::Pause)));
    learner.resume().unwrap();
    let obey = || match commands.recv() {
        Ok(Command::Resume { seen }) => rollback.answered(seen.as_deref()),
        _ => panic!("another command"),
    };
    assert!(obey());
    assert_eq!((halted(), halt::read(world.log.data_dir())), (None, None));
    learner.resume().unwrap();
    roll_back();
    assert!(!obey());
    assert!(halted().is_some(), "it came after the answer");
    learner.resume().unwrap();
    assert!(obey());
    learner.resume().unwrap();
    drop(rollback.halt.turn().announce("a guard tripped".to_string()));
    assert!(!obey(), "and so did a guard's");
    assert!(halt::read(world.log.data_dir()).is_some());
    world.close();
}

/// Goal: what an engine that ends cannot do halts nobody and is nowhere said. Method: a good version that is not in memory, and one
/// that was.
#[test]
fn an_engine_that_ends_halts_nobody() {
    let world = world_with_an_import(|_| ());
    let (_learner, rollback, _commands) = without_an_owner(&world);
    let next = bring(&world, IMPORT);
    go_live(&world, next);
    let n_acts = || world.log.reader().audit(0, 1000).unwrap().len();
    let before = n_acts();
    world.engine.shutdown(Duration::from_secs(10));
    for good in [IMPORT, PolicyVersion::SFT] {
        let stopped = rollback.at_once(&Breach { live: next, good, ..was_worse() });
        assert!(matches!(stopped, Err(PublishError::Interrupted)), "{stopped:?}");
    }
    assert_eq!((halt::read(world.log.data_dir()), rollback.pending(), n_acts()), (None, None, before));
    world.close();
}

pub(super) fn was_worse() -> Breach {
    Breach { live: IMPORT, good: PolicyVersion::SFT, older: Vec::new(), why: "it was worse".to_string() }
}

/// A learner whose thread nobody has started, and whose queue holds one command.
pub(super) fn without_an_owner(world: &World) -> (Learner, Arc<Rollback>, Receiver<Command>) {
    let (commands, received) = bounded(1);
    let (_, ended) = bounded(0);
    let board = Arc::new(Board::new(IMPORT, 8, Past::default()));
    let (counters, interrupt) = (Arc::new(LearnerCounters::default()), Arc::new(AtomicBool::new(false)));
    let switch = Switch::new(world.engine.clone(), world.registry.clone(), Arc::clone(&counters));
    let (bell, _) = Bell::new(Arc::clone(&interrupt));
    let rollback = Arc::new(Rollback::new(switch, bell, world.log.clone(), Arc::clone(&board)));
    let shared = Shared {
        commands,
        board,
        counters,
        interrupt,
        rollback: Mutex::new(Some(Arc::clone(&rollback))),
        ended,
        thread: Mutex::new(None),
    };
    (Learner { shared: Arc::new(shared) }, rollback, received)
}
