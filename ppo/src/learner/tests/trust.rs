//! Learners that do harm, and what users get of it: nothing under a strict gate, and not for long without one.

use policy::{PolicyVersion, Rollout};

use super::{super::*, world::*};
use crate::{
    rollout_log::{Action, VersionState},
    stats::UpdateOutcome,
};

/// Share of low token ids, around 0.
fn rule(rollout: &Rollout) -> f64 {
    let ids = ids(rollout);
    let share = ids.iter().filter(|id| id.0 < 135).count() as f64 / ids.len() as f64;
    4.0 * (share - 0.5)
}

/// A learner whose steps go the wrong way: what a flipped sign of the advantage does.
fn flipped(config: &mut config::Ppo) {
    config.rollouts_per_update = 64;
    config.minibatch = 32;
    config.policy_learning_rate = -5e-3;
    config.kl_coef = 0.0;
    config.missing_eos_score = 0.0;
    (config.stop_kl, config.skip_kl) = (10.0, 10.0);
    config.epochs = 2;
}

#[test]
fn a_strict_gate_refuses_updates_that_unlearn_their_lessons() {
    let mut world = World::new(flipped);
    let learner = world.start_learner();
    for n in 1..=3 {
        world.serve_ending(64);
        world.judge(rule);
        let record = world.until_updates(&learner, n).pop().unwrap();
        assert_eq!(record.outcome, UpdateOutcome::Rejected, "{:?}", record.numbers.get("gate/alignment"));
        assert!(record.reason.unwrap().contains("less likely"));
        assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT);
        world.judge(rule);
    }
    world.close();
}

#[test]
fn an_honest_update_is_aligned_with_its_lessons() {
    let mut world = World::new(|config| {
        flipped(config);
        config.policy_learning_rate = 5e-3;
    });
    let learner = world.start_learner();
    world.serve_ending(64);
    world.judge(rule);
    let record = world.until_updates(&learner, 1).pop().unwrap();
    assert_eq!(record.outcome, UpdateOutcome::Promoted, "{:?}", record.reason);
    assert!(record.numbers["gate/alignment"] > 2.0, "{}", record.numbers["gate/alignment"]);
    assert_eq!(record.numbers["gate/prompts"], 32.0, "a trial was held, though nobody judged it");
    for name in ["gate/step_seconds_candidate", "gate/step_seconds_live"] {
        assert!(record.numbers[name] > 1e-6 && record.numbers[name] < 60.0, "{name}: {}", record.numbers[name]);
    }
    world.close();
}

#[test]
fn an_observing_gate_promotes_and_writes_down_what_was_wrong() {
    let mut world = World::new(|config| {
        flipped(config);
        config.gate = "observe".to_string();
    });
    let learner = world.start_learner();
    world.serve_ending(64);
    world.judge(rule);
    let record = world.until_updates(&learner, 1).pop().unwrap();
    assert_eq!((record.outcome, record.numbers["gate/observed"] >= 1.0), (UpdateOutcome::Promoted, true));
    let row = world.registry.row(PolicyVersion(1)).unwrap().unwrap();
    assert_eq!(row.state, VersionState::Live, "what it says is no reason against it");
    assert!(row.objections().unwrap().contains("less likely") && row.end_reason().is_none(), "{:?}", row.reason);
    let act = world.log.reader().audit(0, 100).unwrap().into_iter().find(|row| row.act.action == Action::Promote);
    assert_eq!((&record.reason, &act.unwrap().detail), (&row.reason, &row.reason));
    world.close();
}

/// Goal: without a gate a bad version serves, but not for long. Method: a learner that goes the wrong way, fast; one rule judges
/// what version 0 and what version 1 say. The last good version must serve again, learning must stand still and say why, and go
/// on when told to.
#[test]
fn the_watch_rolls_a_bad_version_back_and_learning_pauses() {
    let mut world = World::new(|config| {
        flipped(config);
        (config.policy_learning_rate, config.epochs) = (-2e-2, 4);
        config.gate = "off".to_string();
    });
    let learner = world.start_learner();
    world.serve_ending(64);
    world.judge(rule);
    let record = world.until_updates(&learner, 1).pop().unwrap();
    assert_eq!(record.outcome, UpdateOutcome::Promoted, "without a gate");
    // Fewer than the next update would take, so that there is nothing to be learnt from them meanwhile.
    world.serve_ending(60);
    world.judge(rule);
    eventually("a rollback", || learner.counters().rollbacks == 1);
    eventually("the pause", || matches!(learner.status().state, LearnerState::Halted(_)));
    assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT);
    let rows = world.registry.rows().unwrap();
    assert_eq!(rows[0].state, VersionState::Live);
    let why = rows[1].reason.as_deref().unwrap();
    assert!(why.contains("reward fell") && !why.contains("little by little"), "{why}");
    let LearnerState::Halted(why) = learner.status().state else { unreachable!("it was halted") };
    assert!(why.contains("rolled back"), "{why}");
    assert_eq!(learner.history().len(), 1, "nothing was learnt from what the bad version said");
    // Nor does a restart undo it.
    let mut world = world.close().open(flipped);
    let learner = world.start_learner();
    eventually("the pause", || matches!(learner.status().state, LearnerState::Halted(_)));
    learner.resume().unwrap();
    world.serve_ending(64);
    world.judge(rule);
    world.until_updates(&learner, 2);
    let mut world = world.close().open(flipped);
    let learner = world.start_learner();
    eventually("the learner to go on", || matches!(learner.status().state, LearnerState::Waiting));
    world.close();
}

#[test]
fn a_version_that_does_well_is_left_alone() {
    let mut world = World::new(|config| {
        flipped(config);
        config.gate = "off".to_string();
        config.policy_learning_rate = 1e-3;
    });
    let learner = world.start_learner();
    for n in 1..=3 {
        world.serve_ending(64);
        world.judge(rule);
        world.until_updates(&learner, n);
    }
    assert_eq!((learner.counters().rollbacks, learner.status().version), (0, PolicyVersion(3)));
    world.close();
}

/// Goal: with a canary users of the candidate decide, and few of them are needed to see that it is clearly worse. Method: a
/// quarter of the requests go to it; its answers are judged badly, then, for the next candidate, well.
#[test]
fn a_canary_that_does_badly_is_refused_and_one_that_does_well_takes_over() {
    let mut world = World::new(|config| {
        flipped(config);
        config.policy_learning_rate = 1e-3;
        (config.canary_share, config.canary_rollouts) = (0.25, 40);
    });
    let learner = world.start_learner();
    world.serve_ending(64);
    world.judge(rule);
    for (n, outcome, version, bonus) in
        [(1, UpdateOutcome::Rejected, PolicyVersion(1), -4.0), (2, UpdateOutcome::Promoted, PolicyVersion(2), 4.0)]
    {
        let mut seen = 0;
        while learner.history().len() < n {
            seen += world.serve_ending(8).iter().filter(|rollout| rollout.version == version).count();
            world.judge(|rollout| rule(rollout) + bonus * f64::from(u8::from(rollout.version == version)));
        }
        let record = learner.history().pop().unwrap();
        assert_eq!(record.outcome, outcome, "{:?}", record.reason);
        assert!(seen >= 8, "it answered {seen} requests");
        if outcome == UpdateOutcome::Rejected {
            assert!(record.reason.unwrap().contains("canary"));
            let n = record.numbers["canary/rollouts"];
            assert!(n >= 24.0, "the first look is at three fifths, which are more than a handful: {n}");
            assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT);
            world.judge(rule);
        }
    }
    world.close();
}
