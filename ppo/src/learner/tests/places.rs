//! Places in memory: a candidate waits for one, and what was computed for it is kept.

use std::sync::mpsc::{Sender, channel};

use policy::{
    PolicyVersion, SamplingParams,
    engine::{Engine, EngineError, Event, GenerateRequest, Target},
};

use super::{super::*, watching::*, world::*};
use crate::{publish::place::once_there_is_room, rollout_log::RolloutState, stats::UpdateOutcome, sync_point};

/// A response that stands still at its first token, until the sender is dropped.
fn stuck(engine: &Engine, version: PolicyVersion) -> Sender<()> {
    let (held, release) = channel::<()>();
    let (reached, begun) = channel();
    let request = GenerateRequest {
        id: "cmpl-stuck".to_string(),
        prompt: engine.vocabulary().tokenize("a blue").unwrap(),
        sampling: SamplingParams { max_tokens: 4, ignore_eos: true, ..SamplingParams::default() },
        sink: Box::new(move |event| {
            if matches!(event, Event::Token { .. }) {
                reached.send(()).unwrap_or_default();
                // Ends with the sender.
                release.recv().unwrap_or_default();
            }
        }),
        ..GenerateRequest::default()
    };
    engine.submit(Target::Version(version), request).unwrap();
    begun.recv().unwrap();
    held
}

/// Goal: an update whose candidate finds no place is neither lost nor repeated. Method: beside the live version an older one cannot
/// leave, because one of its responses stands still; it goes on once the learner has waited for a while.
#[test]
fn a_candidate_waits_for_the_last_answer_of_an_old_version() {
    let mut world = world_with_an_import(|config| {
        (config.rollouts_per_update, config.watch_rollouts) = (64, 0);
        (config.policy_learning_rate, config.value_learning_rate) = (0.0, 0.0);
    });
    let old = PolicyVersion(9);
    for version in [IMPORT, old] {
        world.engine.load(version, &world.registry.path(IMPORT)).unwrap();
    }
    world.registry.activate(IMPORT, None).unwrap();
    world.engine.promote(IMPORT).unwrap();
    let held = stuck(&world.engine, old);
    world.engine.retire(old).unwrap();
    let learner = world.start_learner();
    eventually("the publication", || learner.status().state == LearnerState::Publishing);
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!((learner.status().state, learner.history().len()), (LearnerState::Publishing, 0), "it waits");
    assert_eq!(world.states()[&RolloutState::Claimed], 64);
    drop(held);
    let record = world.until_updates(&learner, 1).pop().unwrap();
    assert!(matches!(record.outcome, UpdateOutcome::Promoted | UpdateOutcome::Rejected), "{:?}", record.reason);
    assert!(record.version.is_some_and(|version| version > IMPORT), "it was judged");
    world.close();
}

/// Goal: nobody waits for a place that is not there. Method: a publication that cannot begin, and an operator's word.
#[test]
fn a_candidate_without_a_place_holds_up_nobody() {
    let mut world = world_with_an_import(|config| {
        (config.rollouts_per_update, config.watch_rollouts) = (64, 0);
    });
    for version in [IMPORT, PolicyVersion(9)] {
        world.engine.load(version, &world.registry.path(IMPORT)).unwrap();
    }
    let learner = world.start_learner();
    eventually("the publication", || learner.status().state == LearnerState::Publishing);
    learner.activate(IMPORT, None, &Who::cli()).unwrap();
    assert_eq!((world.engine.live(), world.registry.live().unwrap().version), (IMPORT, IMPORT));
    eventually("the end of the update", || !learner.history().is_empty());
    assert_eq!(learner.history()[0].outcome, UpdateOutcome::Interrupted);
    world.close();
}

/// Goal: a lack of memory is waited for like a lack of places while somebody is leaving, and is an error otherwise. Method: loads
/// that are refused beside a version that cannot leave, one of whose responses stands still; then without it.
#[test]
fn memory_that_is_about_to_be_free_is_waited_for() {
    let world = world_with_an_import(|_| ());
    world.engine.load(IMPORT, &world.registry.path(IMPORT)).unwrap();
    let held = stuck(&world.engine, IMPORT);
    world.engine.retire(IMPORT).unwrap();
    let (version, n_loads) = (PolicyVersion(9), std::cell::Cell::new(0));
    let refused =
        || EngineError::Memory { version, needed: 9, parts: "weights 9".to_owned(), room: 8, limit: "the machine" };
    let load = |n_refused| {
        n_loads.set(0);
        once_there_is_room(&world.engine, version, &|| true, || {
            n_loads.set(n_loads.get() + 1);
            if n_loads.get() <= n_refused { Err(refused()) } else { Ok(()) }
        })
    };
    assert!(load(3).unwrap());
    assert_eq!(n_loads.get(), 4);
    assert!(!once_there_is_room(&world.engine, version, &|| false, || Err(refused())).unwrap(), "nobody wants it now");
    drop(held);
    eventually("the import to leave", || !world.engine.is_anybody_leaving());
    assert!(load(3).is_err());
    assert_eq!(n_loads.get(), 1);
    world.close();
}

/// Goal: a candidate whose judging ends in a panic keeps no place that the next one would wait for. Method: more panics than there
/// are places, each right after a verdict; then none.
#[test]
fn a_panic_leaves_no_candidate_in_memory() {
    let mut world = World::new(|_| ());
    let mut n_left = 3;
    sync_point::watch(world.log.data_dir(), move |name| {
        if name == "judged" && n_left > 0 {
            n_left -= 1;
            panic!("of a test");
        }
    });
    let learner = world.start_learner();
    for n in 1..=4 {
        world.feed();
        let record = world.until_updates(&learner, n).pop().unwrap();
        assert_eq!(record.outcome == UpdateOutcome::Failed, n <= 3, "{:?}", record.reason);
        // Nothing to be obeyed, but heard: the rest after a failure ends.
        learner.step().unwrap();
    }
    eventually("the others to leave", || world.engine.residents().len() <= 2);
    world.close();
}
