//! A rollback that has yet to come: it comes, or nothing stands still for it.

use policy::PolicyVersion;

use super::{
    super::{halt, rollback::Rollback, watching::Breach, *},
    halts::{was_worse, without_an_owner},
    watching::{IMPORT, bring, go_live, world_with_an_import},
    world::*,
};
use crate::{
    publish::Switched,
    rollout_log::{Action, AuditRow},
};

/// Two versions that take all places beside the live one.
const OTHERS: [PolicyVersion; 2] = [PolicyVersion(8), PolicyVersion(9)];

/// The import is live, and a good version is there in a file.
fn world_with_a_good_one() -> (World, Breach) {
    let world = world_with_an_import(|_| ());
    let good = bring(&world, PolicyVersion::SFT);
    go_live(&world, IMPORT);
    (world, Breach { good, older: vec![PolicyVersion::SFT], ..was_worse() })
}

fn crowd(world: &World) {
    for other in OTHERS {
        world.engine.load_to_serve(other, &world.registry.path(IMPORT)).unwrap();
    }
}

fn rollback_of(learner: &Learner) -> Arc<Rollback> {
    eventually("the learner", || learner.status().state == LearnerState::Waiting);
    learner.rollback().unwrap()
}

fn is_halted_by(learner: &Learner, begin: &str) -> bool {
    learner.status().state.reason().is_some_and(|why| why.starts_with(begin))
}

fn refused(world: &World) -> Vec<AuditRow> {
    world.log.reader().audit(0, 1000).unwrap().into_iter().filter(|row| !row.is_done).collect()
}

/// Goal: learning stands still for nothing that is never done. Method: a breach that a new look does not find, back to a version that
/// has to be read.
#[test]
fn what_was_seen_is_seen_to_though_it_is_seen_no_longer() {
    let (mut world, breach) = world_with_a_good_one();
    let learner = world.start_learner();
    assert_eq!(rollback_of(&learner).at_once(&breach).unwrap(), Switched::NotInMemory);
    eventually("the rollback", || learner.counters().rollbacks == 1);
    eventually("the reason", || is_halted_by(&learner, "policy@1 was rolled back to policy@2"));
    assert_eq!((world.engine.live(), world.registry.live().unwrap().version), (breach.good, breach.good));
    assert_eq!(learner.rollback().unwrap().pending(), None);
    world.close();
}

/// Goal: a lack of room says nothing against a version. Method: other versions take all places, and then one of them leaves.
#[test]
fn a_rollback_waits_for_room() {
    let (mut world, breach) = world_with_a_good_one();
    crowd(&world);
    let learner = world.start_learner();
    assert_eq!(rollback_of(&learner).at_once(&breach).unwrap(), Switched::NotInMemory);
    eventually("the pause", || is_halted_by(&learner, "policy@1 has to be rolled back"));
    assert_eq!((world.engine.live(), refused(&world)), (IMPORT, vec![]));
    world.engine.retire(OTHERS[0]).unwrap();
    eventually("the rollback", || learner.counters().rollbacks == 1);
    assert_eq!((world.engine.live(), refused(&world)), (breach.good, vec![]));
    world.close();
}

/// Goal: what is pending does not hang on a version that is gone by then. Method: the good one is retired before the first attempt.
#[test]
fn a_version_that_was_retired_meanwhile_is_passed_over() {
    let (mut world, breach) = world_with_a_good_one();
    world.registry.give_up_damaged(breach.good, "of a test").unwrap();
    let learner = world.start_learner();
    assert!(rollback_of(&learner).at_once(&breach).is_err());
    eventually("the rollback", || learner.counters().rollbacks == 1);
    assert_eq!((world.engine.live(), refused(&world)), (PolicyVersion::SFT, vec![]));
    world.close();
}

/// Goal: nothing stands still for a version that is no longer live; what an operator or another reason holds up stays held up.
/// Method: an operator's word while a rollback waits for room; the same with a pause by hand, and with a reason from before.
#[test]
fn nobody_stands_still_for_a_version_that_has_left() {
    for (is_paused, before) in [(false, None), (true, None), (false, Some("another reason"))] {
        let (mut world, breach) = world_with_a_good_one();
        crowd(&world);
        let learner = world.start_learner();
        let rollback = rollback_of(&learner);
        before.iter().for_each(|why| drop(rollback.halt.turn().announce((*why).to_string())));
        assert_eq!(rollback.at_once(&breach).unwrap(), Switched::NotInMemory);
        eventually("the halt", || is_halted_by(&learner, "policy@1 has to be rolled back"));
        if is_paused {
            learner.pause().unwrap();
        }
        learner.activate(PolicyVersion::SFT, None, &Who::cli()).unwrap();
        eventually("the end of it", || !is_halted_by(&learner, "policy@1 has to be"));
        let expected = match before {
            Some(why) => LearnerState::Halted(why.to_owned()),
            None if is_paused => LearnerState::Paused,
            None => LearnerState::Waiting,
        };
        eventually("what there was before", || learner.status().state == expected);
        assert_eq!(learner.status().is_paused, is_paused || before.is_some());
        assert_eq!((halt::read(world.log.data_dir()).as_deref(), rollback.pending()), (before, None));
        let acts = world.log.reader().audit(0, 1000).unwrap();
        let n_resumed = acts.iter().filter(|row| row.act.action == Action::Resume).count();
        assert_eq!(n_resumed, usize::from(expected == LearnerState::Waiting));
        drop(rollback);
        world.close();
    }
}

/// Goal: what passes by itself is waited for, but not for ever; and whoever resumes has answered. Method: attempts by hand.
#[test]
fn patience_ends_and_an_answer_ends_what_is_pending() {
    let (world, breach) = world_with_a_good_one();
    let (_learner, rollback, _commands) = without_an_owner(&world);
    for _ in 0..2 {
        assert_eq!(rollback.at_once(&breach).unwrap(), Switched::NotInMemory);
        assert_eq!(rollback.pending().as_ref(), Some(&breach));
        let patience = [(); 5].map(|()| rollback.is_patient());
        assert_eq!(patience, [true, true, true, false, false]);
        let seen = rollback.halt.turn().read();
        assert!(rollback.answered(seen.as_deref()));
        assert_eq!(rollback.pending(), None);
    }
    world.close();
}

/// Goal: what was learnt from a version that has to go is no way out of it. Method: its child goes live while the rollback waits for
/// room; then a version that has nothing of it.
#[test]
fn learning_stands_still_for_a_child_too() {
    let (mut world, breach) = world_with_a_good_one();
    let child = bring(&world, IMPORT);
    world.engine.load_to_serve(child, &world.registry.path(child)).unwrap();
    world.engine.load_to_serve(OTHERS[0], &world.registry.path(IMPORT)).unwrap();
    let learner = world.start_learner();
    let rollback = rollback_of(&learner);
    assert_eq!(rollback.at_once(&breach).unwrap(), Switched::NotInMemory);
    eventually("the halt", || is_halted_by(&learner, "policy@1 has to be rolled back"));
    go_live(&world, child);
    eventually("the end of the rollback", || rollback.pending().is_none());
    learner.pause().unwrap();
    learner.activate(child, None, &Who::cli()).unwrap();
    assert!(is_halted_by(&learner, "policy@1 has to be rolled back"), "{:?}", learner.status());
    learner.activate(PolicyVersion::SFT, None, &Who::cli()).unwrap();
    eventually("what an operator wants", || learner.status().state == LearnerState::Paused);
    drop(rollback);
    world.close();
}
