//! A pointer that failed after its row: the engine follows while the process lives, not only at its next start.

use policy::{PolicyVersion, failpoint};

use super::{super::*, watching::*, world::*};
use crate::publish::{Switch, Switched};

/// Goal: what was published serves in the same process, although its promotion failed, and also where no service is watched.
/// Method: a learner whose first promotion fails, in a process of its own.
#[test]
fn a_published_version_serves_although_its_promotion_failed() {
    if !is_alone("learner::tests::pointer::a_published_version_serves_although_its_promotion_failed") {
        return;
    }
    let one = PolicyVersion(1);
    let mut world = World::new(|config| config.watch_rollouts = 0);
    failpoint::arm("engine.promote=error").unwrap();
    let learner = world.start_learner();
    world.feed();
    world.until_updates(&learner, 1);
    assert_eq!(world.registry.live().unwrap().version, one, "its row says so");
    eventually("the engine to follow", || world.engine.live() == one);
    assert_eq!(world.serve(1)[0].version, one);
    world.close();
}

/// Goal: row and engine come together again whatever the engine has in memory. Method: a row that went live behind the engine's
/// back, of a version that has to be read first, and then of one that is there.
#[test]
fn the_engine_follows_a_row_that_went_live_without_it() {
    let world = world_with_an_import(|_| ());
    let switch = Switch::new(world.engine.clone(), world.registry.clone(), Arc::default());
    assert_eq!(switch.catch_up().unwrap(), Switched::Already);
    for version in [IMPORT, PolicyVersion::SFT, IMPORT] {
        world.registry.activate(version, None).unwrap();
        assert_ne!(world.engine.live(), version);
        assert_eq!(switch.catch_up().unwrap(), Switched::Done);
        assert_eq!((world.engine.live(), world.registry.live().unwrap().version), (version, version));
        assert_eq!(switch.catch_up().unwrap(), Switched::Already);
    }
    assert!(world.engine.is_ready(IMPORT));
    world.close();
}
