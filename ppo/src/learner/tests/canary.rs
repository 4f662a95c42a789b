//! The canary when little is seen of the candidate until its time is over, and nothing good.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use policy::{PolicyVersion, Rollout, TokenId, engine::Target};

use super::{
    failures::{ask, broken_at},
    watching::*,
    world::*,
};
use crate::{
    publish::{Loader, Publisher, Switch},
    stats::LearnerCounters,
};

/// A world whose import, half of the traffic given, has so many seconds.
fn world(seconds: u64) -> World {
    let world = world_with_an_import(|config| {
        (config.canary_share, config.canary_rollouts, config.canary_s) = (0.5, 40, seconds);
    });
    world.engine.load(IMPORT, &world.registry.path(IMPORT)).unwrap();
    world
}

/// How many answers were judged, whether they were tested, and why it is refused.
type Seen = (usize, bool, Option<String>);

/// Runs the canary while `traffic` flows; `go_on` is what it asks before each look.
fn fly(
    world: &mut World,
    go_on: &(dyn Fn() -> bool + Sync),
    traffic: impl FnOnce(&mut World, &dyn Fn() -> bool),
) -> Seen {
    let counters = Arc::new(LearnerCounters::default());
    let (engine, registry, config) = (world.engine.clone(), world.registry.clone(), world.config.clone());
    let switch = Switch::new(engine.clone(), registry.clone(), Arc::clone(&counters));
    let loader = Loader::start(engine.clone()).unwrap();
    let is_over = AtomicBool::new(false);
    let finding = std::thread::scope(|scope| {
        let canary = scope.spawn(|| {
            let publisher = Publisher {
                engine: &engine,
                loader: &loader,
                switch: &switch,
                registry: &registry,
                config: &config,
                counters: &counters,
                scorer: None,
            };
            let finding = publisher.canary(IMPORT, PolicyVersion::SFT, go_on);
            is_over.store(true, Ordering::Release);
            finding
        });
        traffic(world, &|| is_over.load(Ordering::Acquire));
        canary.join().unwrap().unwrap()
    });
    (finding.n, finding.t.is_some(), finding.refusal)
}

/// So many answers of the import, and about as many of version 0.
fn serve_until(world: &mut World, n: usize, rule: fn(&Rollout) -> f64) {
    let mut seen = 0;
    while seen < n {
        seen += world.serve_ending(2).iter().filter(|rollout| rollout.version == IMPORT).count();
        world.judge(rule);
    }
}

/// Runs the canary over so many answers of the import: it looks when they are all judged, however long that has taken.
fn fly_over(world: &mut World, n: usize, rule: fn(&Rollout) -> f64) -> Seen {
    let (begun, has_begun) = crossbeam_channel::bounded(1);
    let (serving, served) = crossbeam_channel::bounded::<()>(0);
    let go_on = || {
        begun.try_send(()).unwrap_or_default();
        // Ends with the sender.
        served.recv().unwrap_or_default();
        true
    };
    fly(world, &go_on, move |world, _| {
        has_begun.recv_timeout(Duration::from_secs(60)).unwrap();
        serve_until(world, n, rule);
        drop(serving);
    })
}

/// Goal: the end of its time is no way past the test. Method: a dozen answers, fewer than the first look wants, judged badly and
/// judged like version 0's; and so few that no test is worth its name.
#[test]
fn what_was_gathered_is_tested_when_the_time_is_over() {
    let mut bad = world(1);
    let (n, is_tested, refusal) = fly_over(&mut bad, 12, badly);
    assert!((12..24).contains(&n) && is_tested, "{n}");
    assert!(refusal.unwrap().contains("reward of"));
    let (n, is_tested, refusal) = fly_over(&mut bad, 3, badly);
    assert!((3..8).contains(&n) && !is_tested, "{n}");
    assert_eq!(refusal, None, "three answers say nothing, but there were some");
    bad.close();
}

/// Goal: users do not get a version whose longer answers are paid less, where length costs. Method: the same weights, and the import
/// judged a little better; of what version 0 said the first token alone is logged.
#[test]
fn a_candidate_pays_for_longer_answers() {
    let first_token = |rollout: Rollout| match rollout.version {
        IMPORT => rollout,
        _ => Rollout { response: rollout.response[..1].to_vec(), ..rollout },
    };
    for (length_penalty, is_refused) in [(0.0, false), (0.5, true)] {
        let mut world = world(2);
        world.config.length_penalty = length_penalty;
        let (_, is_tested, refusal) = fly(&mut world, &|| true, |world, is_over| {
            while !is_over() {
                let drawn = world.draw(4, |_| ());
                drawn.into_iter().map(first_token).for_each(|rollout| world.log.append(rollout).unwrap());
                world.log.flush().unwrap();
                let noise = |rollout: &Rollout| f64::from(rollout.response[0].id.0 % 7) / 7.0;
                world.judge(|rollout| noise(rollout) + f64::from(u8::from(rollout.version == IMPORT)));
            }
        });
        assert_eq!((is_tested, refusal.is_some()), (true, is_refused), "{length_penalty}: {refusal:?}");
        world.close();
    }
}

/// Goal: answers that nobody stores are answers all the same. Method: requests that never reach the log.
#[test]
fn a_candidate_whose_answers_are_not_stored_has_answered() {
    let mut world = world(1);
    let seen = fly(&mut world, &|| true, |world, is_over| {
        while !is_over() {
            ask(world, Target::Live, TokenId(7));
        }
    });
    assert_eq!(seen, (0, false, None));
    world.close();
}

/// Goal: who never answers anybody is not let in for want of a bad answer. Method: no request at all; then a version of whose
/// weights some are no numbers, which the tokens of its first pass do not meet, and requests that do.
#[test]
fn a_candidate_that_answers_nobody_or_fails_is_refused() {
    let mut world = world(1);
    let (n, is_tested, refusal) = fly(&mut world, &|| true, |_, _| ());
    assert_eq!((n, is_tested), (0, false));
    assert!(refusal.unwrap().contains("answered nobody in 1 s"));
    world.config.canary_s = 600;
    world.engine.retire(IMPORT).unwrap();
    eventually("the import to leave", || !world.engine.residents().iter().any(|one| one.version == IMPORT));
    let path = world.registry.path(IMPORT);
    std::fs::remove_file(&path).unwrap();
    broken_at(7).write(&path).unwrap();
    world.engine.load(IMPORT, &path).unwrap();
    let (_, _, refusal) = fly(&mut world, &|| true, |world, is_over| {
        while !is_over() {
            ask(world, Target::Live, TokenId(7));
        }
    });
    let refusal = refusal.unwrap();
    assert!(refusal.contains("answers failed in the engine"), "{refusal}");
    let failed = |version| world.engine.endings(version).failed;
    assert!(failed(IMPORT) >= 5 && failed(PolicyVersion::SFT) == 0);
    world.close();
}
