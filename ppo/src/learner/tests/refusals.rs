//! Updates that come to nothing: a disk that refuses, a gate that refuses.

use std::fs;

use policy::PolicyVersion;

use super::{super::*, world::*};
use crate::{
    rollout_log::{DropReason, RolloutState, VersionState},
    stats::UpdateOutcome,
    sync_point,
};

#[test]
fn a_disk_that_refuses_leaves_the_live_version_and_gives_the_claim_back() {
    a_disk_that_refuses(512);
}

/// The same where the models cannot be put back and are made again.
#[test]
fn a_disk_that_refuses_costs_a_large_model_no_more() {
    a_disk_that_refuses(0);
}

fn a_disk_that_refuses(snapshot_mib: u64) {
    let mut world = World::new(|config| config.snapshot_mib = snapshot_mib);
    let learner = world.start_learner();
    let obstacle = world.registry.path(PolicyVersion(1)).with_extension("gguf.partial");
    fs::create_dir(&obstacle).unwrap();
    world.feed();
    eventually("a failure", || matches!(learner.status().state, LearnerState::Failed(_)));
    assert_eq!(world.engine.live(), PolicyVersion::SFT);
    assert_eq!(world.registry.live().unwrap().version, PolicyVersion::SFT);
    assert_eq!(world.states()[&RolloutState::Scored], 8);
    assert_eq!(world.serve(2).len(), 2, "serving goes on");
    fs::remove_dir(&obstacle).unwrap();
    eventually("recovery", || world.engine.live() != PolicyVersion::SFT);
    assert_eq!(world.engine.live(), PolicyVersion(2), "the number of what failed is nobody's");
    eventually("the record", || learner.counters().outcomes[&UpdateOutcome::Promoted] == 1);
    assert_eq!(world.states()[&RolloutState::Trained], 8);
    world.close();
}

/// Goal: rollouts that may be at fault do not fail for ever. Method: each of their updates panics.
#[test]
fn rollouts_whose_updates_keep_failing_are_given_up() {
    let mut world = World::new(|_| ());
    sync_point::watch(world.log.data_dir(), |moment| assert_ne!(moment, "written", "a panic of this test"));
    let learner = world.start_learner();
    world.feed();
    eventually("the last attempt", || world.log.counters().dropped[&DropReason::UpdateFailed] == 8);
    // The rows are settled before the attempt is counted.
    eventually("the count", || learner.counters().outcomes[&UpdateOutcome::Failed] == u64::from(ATTEMPTS_MAX));
    world.close();
}

/// Goal: a round that too little may train of changes nothing, says what to do, and is not claimed for ever. Method: a round of
/// which most were cut off by their clients, which may not train; then a whole one.
#[test]
fn a_round_too_small_to_learn_from_is_past_when_the_next_one_comes() {
    let mut world = World::new(|config| config.client_limit = "drop".to_string());
    let learner = world.start_learner();
    let served = world.serve(3);
    for i in 0..5 {
        let mut cut = served[0].clone();
        (cut.id.request, cut.finish) = (format!("cmpl-cut-{i}"), policy::FinishReason::ClientLimit);
        world.log.append(cut).unwrap();
    }
    world.log.flush().unwrap();
    world.judge(planted);
    let record = world.until_updates(&learner, 1).remove(0);
    assert_eq!((record.outcome, record.numbers["guard/effective_batch"]), (UpdateOutcome::NoStep, 1.0));
    let told = "guard rails kept the policy where it was: effective_batch; rollouts dropped: 5 client_limit, 3 guard";
    assert_eq!(record.reason.as_deref(), Some(told));
    assert_eq!(learner.counters().trips[&crate::guard::Guard::EffectiveBatch], 1);
    assert_eq!((world.states()[&RolloutState::Dropped], world.states().len()), (8, 1));
    world.feed();
    assert_eq!(world.until_updates(&learner, 2)[1].outcome, UpdateOutcome::Promoted);
    assert_eq!((learner.counters().restorations, learner.status().is_paused), (0, false));
    world.close();
}

#[test]
fn a_refused_candidate_costs_its_rollouts_and_nothing_else() {
    let mut world = World::new(|config| {
        // A KL limit below zero cannot be met: the gate refuses whatever comes.
        config.kl_adaptive = true;
        config.kl_target = -1.0;
    });
    let learner = world.start_learner();
    world.feed();
    let record = world.until_updates(&learner, 1).remove(0);
    assert_eq!((record.outcome, record.version), (UpdateOutcome::Rejected, Some(PolicyVersion(1))));
    assert!(record.reason.unwrap().contains("KL to version 0"));
    assert_eq!(world.engine.live(), PolicyVersion::SFT);
    assert_eq!(world.registry.rows().unwrap()[1].state, VersionState::Rejected);
    assert!(!world.registry.path(PolicyVersion(1)).exists());
    assert_eq!(world.log.counters().dropped[&DropReason::Gate], 8);
    eventually("the candidate to leave memory", || world.engine.residents().len() == 1);
    world.feed();
    assert_eq!(world.until_updates(&learner, 2)[1].version, Some(PolicyVersion(2)), "its number is not used again");
    world.close();
}

#[test]
fn refused_thrice_the_learner_goes_back_to_its_last_good_state() {
    refused_thrice(512);
}

#[test]
fn refused_thrice_a_learner_without_whole_snapshots_begins_with_fresh_moments() {
    refused_thrice(0);
}

fn refused_thrice(snapshot_mib: u64) {
    let mut world = World::new(|config| {
        config.kl_adaptive = true;
        config.kl_target = -1.0;
        config.snapshot_mib = snapshot_mib;
    });
    let learner = world.start_learner();
    for n in 1..=3 {
        assert_eq!(learner.counters().restorations, 0);
        world.feed();
        world.until_updates(&learner, n);
    }
    eventually("the way back", || learner.counters().restorations == 1);
    assert_eq!(world.engine.live(), PolicyVersion::SFT);
    world.close();
}
