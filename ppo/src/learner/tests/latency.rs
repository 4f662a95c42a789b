//! A version that is slow goes; one that is as quick as others stays, however slow the machine.

use std::collections::BTreeMap;

use policy::{PolicyVersion, checkpoint, failpoint};

use super::{
    super::{
        watching::{LatencyWatch, Watch},
        *,
    },
    halts::without_an_owner,
    watching::*,
    world::*,
};
use crate::{publish::Switched, registry::Candidate, test_world::served_model_of};

/// Layers of a version that takes long: version 0 has two.
const LAYERS: usize = 48;

/// Version 0 is live and has answered; nobody learns, and nobody judges: what is judged is another matter.
fn answered(change: impl FnOnce(&mut config::Ppo)) -> World {
    let mut world = World::new(|config| {
        config.rollouts_per_update = 10_000;
        change(config);
    });
    world.serve(64);
    world
}

/// A version that takes many times as long for a token, in the registry.
fn bring_a_slow_one(world: &World, parent: PolicyVersion) -> PolicyVersion {
    let registry = &world.registry;
    let version = registry.next_version().unwrap();
    served_model_of(LAYERS).write(&registry.path(version)).unwrap();
    let digest = checkpoint::digest(&registry.path(version)).unwrap();
    registry.register(&Candidate { version, parent, digest, n_rollouts: 0 }).unwrap();
    registry.keep(version, BTreeMap::new()).unwrap();
    version
}

/// Goal: what takes several times as long is found out, said in numbers, and stays found. Method: a parent that was quick and has left
/// memory, so that version 0 is timed in its place; a watch that has seen it live, and one that begins then, as after a restart, which
/// has version 0 to go by.
#[test]
fn a_version_that_takes_several_times_as_long_is_a_breach() {
    let mut world = answered(|_| ());
    let parent = bring(&world, PolicyVersion::SFT);
    let watch = Watch::new(&world.setup(None));
    let mut latency = LatencyWatch::over(&watch);
    let look = |latency: &mut LatencyWatch<'_>| latency.look(&|| true).unwrap();
    assert_eq!(look(&mut latency), None);
    go_live(&world, parent);
    assert_eq!(look(&mut latency), None);
    world.serve(64);
    assert_eq!(look(&mut latency), None, "as quick as version 0");
    let slow = bring_a_slow_one(&world, parent);
    go_live(&world, slow);
    world.engine.retire(parent).unwrap();
    eventually("its leave", || !world.engine.in_memory().iter().any(|resident| resident.version == parent));
    let mut fresh = LatencyWatch::over(&watch);
    assert_eq!((look(&mut latency), look(&mut fresh)), (None, None), "it has answered nobody");
    world.serve(64);
    let breach = look(&mut latency).expect("it is slow");
    assert_eq!((breach.live, breach.good, breach.older.as_slice()), (slow, parent, &[PolicyVersion::SFT][..]));
    assert!(
        breach.why.starts_with("a token takes ") && breach.why.contains(" ms, with policy@1 it took 0."),
        "{}",
        breach.why
    );
    assert!(breach.why.contains("side by side with policy@0 it takes "), "{}", breach.why);
    assert_eq!(look(&mut latency), Some(breach), "whoever carries it out looks again");
    assert_eq!(look(&mut fresh).expect("it is slow").good, PolicyVersion::SFT);
    assert!(watch.look().unwrap().is_none(), "nothing else is wrong with it");
    world.close();
}

/// Goal: who serves by a rollback is not compared anew; nor is anybody where that is not wanted. Method: a slow version that the watch
/// went back to, and one before watches that do not look at it.
#[test]
fn who_serves_by_a_rollback_or_is_not_watched_may_take_long() {
    let mut world = answered(|_| ());
    let slow = bring_a_slow_one(&world, PolicyVersion::SFT);
    go_live(&world, slow);
    let changes: [fn(&mut config::Ppo); 2] =
        [|config| config.watch_latency_factor = 0.0, |config| config.watch_rollouts = 0];
    let unwatched = changes.map(|change| {
        let mut setup = world.setup(None);
        change(&mut setup.config);
        Watch::new(&setup)
    });
    let mut unwatched = unwatched.each_ref().map(LatencyWatch::over);
    let mut is_slow = || unwatched.each_mut().map(|latency| latency.look(&|| true).unwrap().is_some());
    assert_eq!(is_slow(), [false; 2]);
    world.serve(64);
    assert_eq!(is_slow(), [false; 2]);
    let child = bring(&world, slow);
    go_live(&world, child);
    let (_learner, rollback, _commands) = without_an_owner(&world);
    let breach = watching::Breach { live: child, good: slow, older: Vec::new(), why: "of a test".to_owned() };
    assert_eq!(rollback.at_once(&breach).unwrap(), Switched::Done);
    let watch = Watch::new(&world.setup(None));
    let mut latency = LatencyWatch::over(&watch);
    assert_eq!(latency.look(&|| true).unwrap(), None);
    world.serve(64);
    assert_eq!(latency.look(&|| true).unwrap(), None);
    assert!(latency.has_passed());
    world.close();
}

/// Goal: it goes the way of every breach, under traffic. Method: a learner that is unable to learn, for these weights are of another
/// shape than its own; clients that ask until the quick version answers again.
#[test]
fn a_slow_version_is_rolled_back() {
    let mut world = answered(|config| config.device = "cuda:0".to_string());
    let slow = bring_a_slow_one(&world, PolicyVersion::SFT);
    let learner = world.start_learner();
    eventually("the learner to give up", || matches!(learner.status().state, LearnerState::Unable(_)));
    learner.activate(slow, None, &Who::cli()).unwrap();
    eventually("a rollback", || {
        world.serve(8);
        learner.counters().rollbacks == 1
    });
    eventually("the reason", || matches!(learner.status().state, LearnerState::Halted(_)));
    let status = learner.status();
    let why = status.state.reason().unwrap();
    assert!(why.starts_with("policy@1 was rolled back to policy@0: a token takes "), "{why}");
    assert!(status.is_paused);
    assert_eq!(world.serve(1)[0].version, PolicyVersion::SFT);
    assert!(world.registry.row(slow).unwrap().unwrap().reason.unwrap().starts_with("rolled back: a token takes "));
    world.close();
}

/// Goal: neither a machine that has become slow nor a watch that is told to go brings a version down. Method: every pass of every
/// version takes many times as long from a moment on, in a process of its own; before, a slow version while nobody waits for what is
/// timed.
#[test]
fn a_slow_machine_brings_nobody_down() {
    if !is_alone("learner::tests::latency::a_slow_machine_brings_nobody_down") {
        return;
    }
    let mut world = answered(|_| ());
    let version = bring(&world, PolicyVersion::SFT);
    let slow = bring_a_slow_one(&world, PolicyVersion::SFT);
    let watch = Watch::new(&world.setup(None));
    let mut latency = LatencyWatch::over(&watch);
    go_live(&world, slow);
    assert_eq!(latency.look(&|| true).unwrap(), None);
    world.serve(64);
    assert_eq!(latency.look(&|| false).unwrap(), None);
    assert!(!latency.has_passed(), "it is asked again");
    go_live(&world, version);
    assert_eq!(latency.look(&|| true).unwrap(), None);
    failpoint::arm("engine.step=delay:3@1+").unwrap();
    world.serve(64);
    let steps = world.engine.step_times(version);
    let (now, before) =
        (steps.quantile(2, 0.1).unwrap(), world.engine.step_times(PolicyVersion::SFT).quantile(2, 0.1).unwrap());
    assert!(steps.n_steps(2) >= 200 && now > 3.0 * before, "{now} s after {before} s: there is something to be asked");
    assert_eq!(latency.look(&|| true).unwrap(), None);
    assert!(latency.has_passed(), "side by side it is as quick");
    failpoint::arm("").unwrap();
    world.close();
}
