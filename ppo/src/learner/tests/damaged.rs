//! A rollback to a version that cannot serve any more.

use std::{collections::BTreeMap, fs};

use policy::{PolicyVersion, Rollout, checkpoint};

use super::{super::*, watching::*, world::*};
use crate::{
    registry::Candidate,
    rollout_log::{Action, AuditRow, VersionState},
};

const ONE: PolicyVersion = PolicyVersion(1);
const TWO: PolicyVersion = PolicyVersion(2);

fn well_but_for_two(rollout: &Rollout) -> f64 {
    well(rollout) - 4.0 * f64::from(u8::from(rollout.version == TWO))
}

/// A world in which version 2 is live and does badly, and its parent has done well and is not in memory. Nobody has looked yet.
fn fallen_from(one: impl FnOnce(&World) -> PolicyVersion) -> World {
    let mut world = World::new(|config| (config.rollouts_per_update, config.watch_rollouts) = (10_000, 48));
    assert_eq!(one(&world), ONE);
    world.serve_ending(64);
    world.judge(well_but_for_two);
    world.registry.activate(ONE, None).unwrap();
    // What its answers were is a matter of rows: version 0, whose weights it has or cannot have, gives them in its name.
    for mut rollout in world.draw(64, end_often) {
        rollout.version = ONE;
        world.log.append(rollout).unwrap();
    }
    world.log.flush().unwrap();
    world.judge(well_but_for_two);
    assert_eq!(bring(&world, ONE), TWO);
    go_live(&world, TWO);
    assert!(!world.engine.is_ready(ONE));
    world.serve_ending(60);
    world.judge(well_but_for_two);
    world
}

/// Version 0 serves and learning stands still, with one reason.
fn until_rolled_back_to_version_0(world: &mut World) {
    let learner = world.start_learner();
    eventually("a rollback", || learner.counters().rollbacks == 1);
    eventually("the reason", || matches!(learner.status().state, LearnerState::Halted(_)));
    let status = learner.status();
    let why = status.state.reason().unwrap();
    assert!(why.starts_with("policy@2 was rolled back to policy@0: reward fell"), "{why}");
    assert!(!why.contains("Before that"), "that it was yet to come is no other reason: {why}");
    assert!(status.is_paused);
    assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT);
    let reason = world.registry.row(TWO).unwrap().unwrap().reason.unwrap();
    assert!(reason.starts_with("rolled back: reward fell"), "{reason}");
}

fn acts(world: &World, action: Action) -> Vec<AuditRow> {
    let acts = world.log.reader().audit(0, 1000).unwrap();
    acts.into_iter().filter(|row| row.act.action == action && row.act.who == Who::watch()).collect()
}

/// Goal: a bad version goes although its parent cannot serve again. Method: the parent's file has a bit turned, and is missing.
#[test]
fn a_rollback_passes_over_a_damaged_version() {
    for is_missing in [false, true] {
        let mut world = fallen_from(|world| bring(world, PolicyVersion::SFT));
        let path = world.registry.path(ONE);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        if is_missing {
            fs::remove_file(&path).unwrap();
        }
        until_rolled_back_to_version_0(&mut world);
        let row = world.registry.row(ONE).unwrap().unwrap();
        assert_eq!(row.state, VersionState::Retired);
        assert!(row.reason.unwrap().starts_with("it was missing or damaged: "));
        assert!(!path.exists());
        let retired = acts(&world, Action::Retire);
        assert_eq!((retired.len(), retired[0].act.subject.as_deref()), (1, Some("policy@1")));
        world.close();
    }
}

/// Goal: the same where the file is what it should be, and the engine cannot serve it: nothing is wrong with it that would stay.
/// Method: a file that is no model, with its own digest.
#[test]
fn a_rollback_passes_over_a_version_that_cannot_be_loaded() {
    let mut world = fallen_from(|world| {
        let registry = &world.registry;
        let version = registry.next_version().unwrap();
        fs::write(registry.path(version), b"no model").unwrap();
        let digest = checkpoint::digest(&registry.path(version)).unwrap();
        registry.register(&Candidate { version, parent: PolicyVersion::SFT, digest, n_rollouts: 0 }).unwrap();
        registry.keep(version, BTreeMap::new()).unwrap();
        version
    });
    until_rolled_back_to_version_0(&mut world);
    assert_eq!(world.registry.row(ONE).unwrap().unwrap().state, VersionState::Retained);
    let rollbacks = acts(&world, Action::Rollback);
    let told: Vec<_> = rollbacks.iter().map(|row| (row.act.subject.as_deref().unwrap(), row.is_done)).collect();
    assert_eq!(told, [("policy@1", false), ("policy@0", true)]);
    assert_eq!(acts(&world, Action::Pause).len(), 2, "as soon as it was seen, and when it was done");
    world.close();
}
