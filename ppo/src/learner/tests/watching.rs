//! The watch over the live version: what it compares, when, and that nothing keeps it from looking.

use std::{collections::BTreeMap, fs};

use policy::{PolicyVersion, Rollout, SamplingParams, checkpoint};

use super::{
    super::{watching::Watch, *},
    halts::without_an_owner,
    world::*,
};
use crate::{
    publish::Switched,
    registry::Candidate,
    rollout_log::{Seq, VersionState},
    stats::UpdateOutcome,
};

pub(super) const IMPORT: PolicyVersion = PolicyVersion(1);

/// Share of low token ids, around 0.
pub(super) fn well(rollout: &Rollout) -> f64 {
    let ids = ids(rollout);
    let share = ids.iter().filter(|id| id.0 < 135).count() as f64 / ids.len() as f64;
    4.0 * (share - 0.5)
}

/// Far below it where the import answered.
pub(super) fn badly(rollout: &Rollout) -> f64 {
    well(rollout) - 4.0 * f64::from(u8::from(rollout.version == IMPORT))
}

/// A world in which version 0 did well, and version 1, of the same weights, was made elsewhere and never live. So what tells
/// them apart is the judge alone.
pub(super) fn world_with_an_import(change: impl FnOnce(&mut config::Ppo)) -> World {
    let mut world = World::new(|config| {
        // Nobody learns unless a test wants it.
        (config.rollouts_per_update, config.watch_rollouts) = (10_000, 48);
        change(config);
    });
    assert_eq!(bring(&world, PolicyVersion::SFT), IMPORT);
    world.serve_ending(64);
    world.judge(well);
    world
}

/// A version with the weights of version 0 that could be activated.
pub(super) fn bring(world: &World, parent: PolicyVersion) -> PolicyVersion {
    let registry = &world.registry;
    let version = registry.next_version().unwrap();
    fs::copy(registry.path(PolicyVersion::SFT), registry.path(version)).unwrap();
    let digest = checkpoint::digest(&registry.path(version)).unwrap();
    registry.register(&Candidate { version, parent, digest, n_rollouts: 0 }).unwrap();
    registry.keep(version, BTreeMap::new()).unwrap();
    version
}

/// Without a learner, which would look by itself.
pub(super) fn go_live(world: &World, version: PolicyVersion) {
    if !world.engine.residents().iter().any(|resident| resident.version == version) {
        world.engine.load(version, &world.registry.path(version)).unwrap();
    }
    world.registry.activate(version, None).unwrap();
    let before = world.engine.promote(version).unwrap();
    if before != version {
        world.engine.step_down(before).unwrap();
    }
}

fn is_bad(watch: &Watch) -> bool {
    watch.look().unwrap().is_some()
}

/// Goal: no version passes without having been compared. Method: between two looks twice as many rollouts come as are looked at.
#[test]
fn a_version_is_compared_however_many_rollouts_come_between_two_looks() {
    let mut world = world_with_an_import(|_| ());
    let watch = Watch::new(&world.setup(None));
    go_live(&world, IMPORT);
    assert!(!is_bad(&watch), "nothing is known of it");
    world.serve_ending(100);
    world.judge(badly);
    assert!(is_bad(&watch));
    world.close();
}

/// Goal: each service of a version is watched for itself. Method: one version three times, judged badly, well and badly; what a
/// watch sees that has seen everything, and one that begins now, as after a restart.
#[test]
fn each_service_of_a_version_is_watched_from_its_own_rollouts() {
    let mut world = world_with_an_import(|_| ());
    let watch = Watch::new(&world.setup(None));
    let mut since = Vec::new();
    type Service = (fn(&Rollout) -> f64, bool);
    let services: [Service; 3] = [(badly, true), (well, false), (badly, true)];
    for (rule, is_expected) in services {
        go_live(&world, IMPORT);
        since.push(world.registry.live_since(IMPORT).unwrap());
        let fresh = Watch::new(&world.setup(None));
        assert!(!is_bad(&watch) && !is_bad(&fresh), "of this service there is nothing yet");
        world.serve_ending(64);
        world.judge(rule);
        assert_eq!((is_bad(&watch), is_bad(&fresh)), (is_expected, is_expected), "service {}", since.len());
        go_live(&world, PolicyVersion::SFT);
    }
    assert_eq!(since, [Seq(64), Seq(128), Seq(192)]);
    world.close();
}

/// Goal: a reward model that is sterner than the one before is not taken for a version that is worse, and one that judged both is
/// believed. Method: the same fall, in the eyes of another judge, and then of one that has seen the ancestor's last answers too.
#[test]
fn a_sterner_judge_brings_no_version_down() {
    let mut world = world_with_an_import(|_| ());
    go_live(&world, IMPORT);
    world.serve_ending(64);
    world.judge_as("another", badly);
    assert!(!is_bad(&Watch::new(&world.setup(None))), "nobody has judged both");
    go_live(&world, PolicyVersion::SFT);
    world.serve_ending(64);
    world.judge_as("another", well);
    go_live(&world, IMPORT);
    world.serve_ending(64);
    world.judge_as("another", badly);
    assert!(is_bad(&Watch::new(&world.setup(None))));
    world.close();
}

/// Goal: a version that is paid less for longer answers goes where length costs, and one whose shorter answers are worth their lower
/// score stays. Method: answers that are twice as long, judged alike; and half as long, judged far lower.
#[test]
fn versions_are_compared_by_what_their_answers_are_paid() {
    let cut = |n: u32| move |sampling: &mut SamplingParams| sampling.max_tokens = n;
    for (length_penalty, [longer, lower]) in [(0.0, [false, true]), (1.0, [true, false])] {
        for (n_tokens, fall, is_expected) in [(12, 0.0, longer), (3, 2.0, lower)] {
            let mut world = World::new(|config| {
                (config.rollouts_per_update, config.watch_rollouts) = (10_000, 48);
                config.length_penalty = length_penalty;
            });
            let import = bring(&world, PolicyVersion::SFT);
            world.serve_with(64, cut(6));
            world.judge(well);
            go_live(&world, import);
            world.serve_with(64, cut(n_tokens));
            world.judge(|rollout| well(rollout) - fall);
            let breach = Watch::new(&world.setup(None)).look().unwrap();
            assert_eq!(breach.is_some(), is_expected, "{length_penalty}, {n_tokens}: {breach:?}");
            world.close();
        }
    }
}

/// Goal: versions that get worse a little each time end where they were best. Method: four versions of the same weights, each
/// judged a fifth of a deviation below its parent: no step is a breach, and the fourth is worse than version 0 beyond doubt.
#[test]
fn a_slide_over_several_versions_is_rolled_back_to_where_it_began() {
    // Deviation 0.29, whatever was said.
    let noise = |rollout: &Rollout| {
        let n = u64::from_str_radix(rollout.id.request.trim_start_matches("cmpl-"), 16).unwrap();
        (n * 37 % 100) as f64 / 100.0
    };
    let rule = |rollout: &Rollout| noise(rollout) - 0.06 * rollout.version.0 as f64;
    let mut world = World::new(|config| (config.rollouts_per_update, config.watch_rollouts) = (10_000, 64));
    world.serve_ending(64);
    world.judge(rule);
    let watch = Watch::new(&world.setup(None));
    for n in 1..=4 {
        let version = bring(&world, PolicyVersion(n - 1));
        go_live(&world, version);
        world.serve_ending(64);
        world.judge(rule);
        let breach = watch.look().unwrap();
        let expected = (n == 4).then_some(PolicyVersion::SFT);
        assert_eq!(breach.as_ref().map(|breach| breach.good), expected, "version {n}");
        if let Some(breach) = breach {
            assert!(breach.why.contains("little by little"), "{}", breach.why);
            assert_eq!(watch.look().unwrap(), Some(breach), "whoever carries it out looks again");
        }
    }
    world.close();
}

/// Goal: what brought one version down brings down no other after it. Method: a rollback to a version that the same traffic finds as
/// bad, before a watch that has seen all of it and one that begins then, as after a restart; then an operator's word for it.
#[test]
fn a_rollback_brings_no_other_after_it() {
    let mut world = world_with_an_import(|_| ());
    go_live(&world, IMPORT);
    world.serve_ending(64);
    world.judge(well);
    let next = bring(&world, IMPORT);
    let watch = Watch::new(&world.setup(None));
    go_live(&world, next);
    world.serve_ending(64);
    world.judge(|rollout| well(rollout) - 4.0);
    let breach = watch.look().unwrap().expect("it is worse");
    assert_eq!(breach.good, IMPORT);
    let (_learner, rollback, _commands) = without_an_owner(&world);
    assert_eq!(rollback.at_once(&breach).unwrap(), Switched::Done);
    world.serve_ending(64);
    world.judge(badly);
    assert!(!is_bad(&watch) && !is_bad(&Watch::new(&world.setup(None))));
    go_live(&world, PolicyVersion::SFT);
    go_live(&world, IMPORT);
    world.serve_ending(64);
    world.judge(badly);
    assert!(is_bad(&watch) && is_bad(&Watch::new(&world.setup(None))));
    world.close();
}

/// Goal: a paused learner watches, learns nothing, stays paused and says why; so does one that is halted already. Method: a bad
/// version is activated while paused, and again after its rollback.
#[test]
fn a_bad_version_is_rolled_back_while_learning_is_paused() {
    let mut world = world_with_an_import(|config| config.rollouts_per_update = 64);
    let learner = world.start_learner();
    world.until_updates(&learner, 1);
    learner.pause().unwrap();
    eventually("the pause", || learner.status().state == LearnerState::Paused);
    for n in 1..=2 {
        learner.activate(IMPORT, None, &Who::cli()).unwrap();
        assert_eq!(world.registry.live().unwrap().version, IMPORT);
        world.serve_ending(90);
        world.judge(badly);
        eventually("a rollback", || learner.counters().rollbacks == n);
        eventually("the reason", || matches!(learner.status().state, LearnerState::Halted(_)));
        assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT, "the ancestor");
    }
    let has_both = |why: &str| why.contains("policy@1 was rolled back to policy@0") && why.contains("Before that");
    eventually("both reasons", || learner.status().state.reason().is_some_and(has_both));
    assert!(learner.status().is_paused);
    let row = world.registry.row(IMPORT).unwrap().unwrap();
    assert_ne!(row.state, VersionState::Live);
    assert!(row.reason.unwrap().contains("rolled back: reward fell"));
    assert_eq!(learner.history().len(), 1, "nothing was learnt although there is enough");
    world.close();
}

/// Goal: the watch looks while an update runs, and breaks it off. Method: an update of more epochs than anybody has patience for,
/// of what the version answered well.
#[test]
fn a_bad_version_is_rolled_back_while_an_update_runs() {
    let mut world = world_with_an_import(|config| {
        (config.rollouts_per_update, config.epochs) = (64, 1_000_000);
        (config.policy_learning_rate, config.value_learning_rate) = (0.0, 0.0);
    });
    go_live(&world, IMPORT);
    let learner = world.start_learner();
    eventually("an update", || learner.status().state == LearnerState::Updating);
    world.serve_ending(60);
    world.judge(badly);
    eventually("a rollback", || learner.counters().rollbacks == 1);
    eventually("the pause", || matches!(learner.status().state, LearnerState::Halted(_)));
    assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT);
    assert_eq!(learner.history()[0].outcome, UpdateOutcome::Interrupted);
    world.close();
}

/// Goal: who cannot learn can still watch. Method: a learner for a device that this build cannot use.
#[test]
fn a_bad_version_is_rolled_back_by_a_learner_that_is_unable_to_learn() {
    let mut world = world_with_an_import(|config| config.device = "cuda:0".to_string());
    let learner = world.start_learner();
    eventually("the learner to give up", || matches!(learner.status().state, LearnerState::Unable(_)));
    learner.activate(IMPORT, None, &Who::cli()).unwrap();
    world.serve_ending(60);
    world.judge(badly);
    eventually("a rollback", || learner.counters().rollbacks == 1);
    eventually("the reason", || matches!(learner.status().state, LearnerState::Halted(_)));
    assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT);
    learner.resume().unwrap();
    eventually("what it is unable to", || matches!(learner.status().state, LearnerState::Unable(_)));
    world.close();
}
