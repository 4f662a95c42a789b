//! Who serves changes at once, and what the learner does meanwhile comes to nothing.

use std::sync::Arc;

use policy::{
    PolicyVersion,
    engine::{EngineError, ResidentState},
};

use super::{super::LearnerState, watching::*, world::*};
use crate::{
    publish::{PublishError, Switch, Switched},
    registry::RegistryError,
    rollout_log::{VersionState, Who},
    stats::{LearnerCounters, UpdateOutcome},
};

/// Goal: an operator waits for nobody. Method: the switch alone, with no learner behind it: to a version in memory and back, and
/// what it refuses.
#[test]
fn a_version_in_memory_serves_without_a_learners_help() {
    let world = world_with_an_import(|_| ());
    let counters = Arc::new(LearnerCounters::default());
    let switch = Switch::new(world.engine.clone(), world.registry.clone(), Arc::clone(&counters));
    let activate = |version, expected_live| switch.activate(version, expected_live, &Who::cli());
    assert_eq!(activate(IMPORT, None).unwrap(), Switched::NotInMemory);
    assert_eq!(world.registry.live().unwrap().version, PolicyVersion::SFT, "nothing has changed");
    let loading = |expected_live, n_loads: &mut usize| {
        switch.load_and_activate(IMPORT, expected_live, &Who::cli(), || {
            *n_loads += 1;
            Ok(world.engine.load(IMPORT, &world.registry.path(IMPORT))?)
        })
    };
    let mut n_loads = 0;
    let lost = loading(Some(IMPORT), &mut n_loads).unwrap_err();
    assert!(matches!(lost, PublishError::Registry(RegistryError::Log(_))), "{lost}");
    assert_eq!(n_loads, 0, "nothing is read for a wish that cannot be granted");
    assert_eq!(loading(Some(PolicyVersion::SFT), &mut n_loads).unwrap(), Switched::Done);
    assert_eq!((loading(None, &mut n_loads).unwrap(), n_loads), (Switched::Already, 1));
    assert_eq!((world.engine.live(), world.registry.live().unwrap().version), (IMPORT, IMPORT));
    assert_eq!(activate(IMPORT, None).unwrap(), Switched::Already);
    assert_eq!(switch.roll_back(PolicyVersion::SFT, IMPORT, "it was worse", || ()).unwrap(), Switched::Done);
    assert_eq!(world.engine.live(), PolicyVersion::SFT);
    let row = world.registry.row(IMPORT).unwrap().unwrap();
    assert_eq!(row.state, VersionState::Retained, "it left service and waits, nothing drains");
    assert_eq!(row.reason.as_deref(), Some("rolled back: it was worse"));
    let resident = world.engine.residents().into_iter().find(|resident| resident.version == IMPORT).unwrap();
    assert_eq!(resident.state, ResidentState::Ready, "the way back is short");
    assert_eq!(activate(IMPORT, None).unwrap(), Switched::Done);
    let seen = counters.snapshot();
    assert_eq!((seen.activations, seen.rollbacks, seen.promotions.count), (2, 1, 3));
    assert!(matches!(world.engine.retire(IMPORT), Err(EngineError::StillNeeded(..))));
    world.close();
}

/// Goal: a publication never overrides whoever changed the live version meanwhile, even if the learner was not told. Method: the
/// change is made behind its back while an update runs.
#[test]
fn an_update_whose_parent_has_left_service_is_not_published() {
    let mut world = world_with_an_import(|config| {
        (config.rollouts_per_update, config.epochs) = (64, 100);
        (config.policy_learning_rate, config.value_learning_rate) = (0.0, 0.0);
    });
    let learner = world.start_learner();
    eventually("an update", || learner.status().state == LearnerState::Updating);
    go_live(&world, IMPORT);
    eventually("the end of it", || !learner.history().is_empty());
    assert_eq!(learner.history()[0].outcome, UpdateOutcome::Interrupted);
    eventually("the trainer to follow", || learner.status().version == IMPORT);
    assert_eq!((world.engine.live(), world.registry.live().unwrap().version), (IMPORT, IMPORT));
    world.close();
}
