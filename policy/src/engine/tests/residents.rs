use std::{
    sync::atomic::{AtomicU64, AtomicUsize},
    thread,
    time::Duration,
};

use super::*;

#[test]
fn versions_are_addressable_and_answer_with_their_own_weights() {
    let test = TestEngine::new();
    test.load(1);
    let ask = Ask::exactly(test.tokens("the user"), 20);
    let sft = test.submit(Target::Live, ask.clone()).unwrap().wait().remove(0);
    assert_eq!(test.engine.promote(PolicyVersion(1)).unwrap(), PolicyVersion::SFT);
    let live = test.submit(Target::Live, ask.clone()).unwrap().wait().remove(0);
    let named = test.submit(Target::Version(PolicyVersion::SFT), ask).unwrap().wait().remove(0);
    assert_eq!(live.finished.rollout.version, PolicyVersion(1));
    assert_eq!(sft.text, named.text);
    assert_ne!(sft.text, live.text);
    check_replay(&test.engine, &live, 1e-3);
    check_replay(&test.engine, &named, 1e-3);
    let states: Vec<_> = test.engine.residents().iter().map(|resident| resident.state).collect();
    assert_eq!(states, [ResidentState::Ready, ResidentState::Live]);
}

#[test]
fn retiring_finishes_what_runs_and_frees() {
    let test = TestEngine::new();
    test.load(1);
    test.engine.promote(PolicyVersion(1)).unwrap();
    let running = test.submit(Target::Live, Ask::exactly(test.tokens("the"), 200)).unwrap();
    assert!(matches!(test.engine.retire(PolicyVersion(1)), Err(EngineError::StillNeeded(..))));
    test.engine.promote(PolicyVersion::SFT).unwrap();
    test.engine.retire(PolicyVersion(1)).unwrap();
    let refused = test.submit(Target::Version(PolicyVersion(1)), Ask::exactly(test.tokens("x"), 1));
    assert!(matches!(refused, Err(Rejection::Draining(_) | Rejection::UnknownVersion(_))));
    assert_eq!(running.wait()[0].streamed.len(), 200);
    while test.engine.residents().len() > 1 {
        thread::yield_now();
    }
    assert!(matches!(test.engine.retire(PolicyVersion(1)), Err(EngineError::NotResident(_))));
    assert!(matches!(test.engine.retire(PolicyVersion::SFT), Err(EngineError::StillNeeded(..))));
    test.load(1);
}

/// Goal: a version that has stepped down comes back at once, and is in nobody's way. Method: three versions; what each load, recall
/// and step leaves in memory.
#[test]
fn a_version_that_has_stepped_down_stays_until_its_place_is_wanted() {
    let test = TestEngine::with(Model::default(), |config| config.residents_max = 4);
    let [one, two, three] = [1, 2, 3].map(PolicyVersion);
    let in_memory = || test.engine.residents().iter().map(|resident| resident.version.0).collect::<Vec<_>>();
    test.load(1);
    assert!(matches!(test.engine.step_down(three), Err(EngineError::NotResident(_))));
    test.engine.promote(one).unwrap();
    assert!(matches!(test.engine.step_down(one), Err(EngineError::StillNeeded(..))));
    test.engine.step_down(PolicyVersion::SFT).unwrap();
    test.load(2);
    assert_eq!(in_memory(), [0, 1, 2]);
    test.engine.promote(two).unwrap();
    test.engine.step_down(one).unwrap();
    let ask = Ask::exactly(test.tokens("the"), 3);
    let named = test.submit(Target::Version(one), ask).unwrap().wait().remove(0);
    assert_eq!(named.finished.rollout.version, one, "it still answers those who name it");
    let leaving = test.engine.resident(one).unwrap();
    test.load(3);
    assert!(leaving.wait_freed(Duration::from_secs(30)));
    assert_eq!(in_memory(), [0, 2, 3], "its place was wanted");
    test.engine.promote(three).unwrap();
    test.engine.step_down(two).unwrap();
    assert_eq!(
        [two, two, one].map(|version| test.engine.recall(version)),
        [Recall::Recalled, Recall::Ready, Recall::Absent]
    );
    test.load(1);
    assert_eq!(in_memory(), [0, 1, 2, 3], "who was recalled stays");
    test.engine.step_down(one).unwrap();
    test.engine.step_down(two).unwrap();
    let resident = test.engine.resident(one);
    assert!(resident.is_none_or(|resident| resident.wait_freed(Duration::from_secs(30))), "one waits at most");
    assert_eq!(test.engine.promote(two).unwrap(), three);
    test.engine.retire(three).unwrap();
    test.load(4);
    assert!(in_memory().contains(&2), "who serves is in nobody's way");
}

/// Goal: under traffic, swaps fail no request and mix no versions. Method: clients without pause while versions are
/// loaded, promoted and retired; every response must replay under the version it is stamped with.
#[test]
fn swaps_under_load_fail_nothing_and_mix_nothing() {
    const SWAPS: u64 = 6;
    let test = TestEngine::with(Model::default(), |config| config.parallel = 4);
    let swaps_done = AtomicU64::new(0);
    let replayed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..3 {
            let (test, swaps_done, replayed) = (&test, &swaps_done, &replayed);
            scope.spawn(move || {
                for round in 0.. {
                    let ask = Ask::exactly(test.tokens(&format!("client {client} round {round}")), 24);
                    let choice = test.ask(ask).remove(0);
                    // A retired version may be gone before its replay; most are not.
                    if test
                        .engine
                        .residents()
                        .iter()
                        .any(|r| r.version == choice.finished.rollout.version && r.state != ResidentState::Draining)
                    {
                        replayed.fetch_add(usize::from(replays(test, &choice)), Ordering::Relaxed);
                    }
                    if swaps_done.load(Ordering::Acquire) == SWAPS {
                        break;
                    }
                }
            });
        }
        for version in 1..=SWAPS {
            test.load(version);
            let old = test.engine.promote(PolicyVersion(version)).unwrap();
            // The version before stays until the next swap, so that its last responses can be replayed.
            if old.0 >= 1 && version >= 2 {
                drop(test.engine.retire(PolicyVersion(version - 1)));
            }
            swaps_done.store(version, Ordering::Release);
        }
    });
    assert!(replayed.load(Ordering::Relaxed) >= 3);
    assert_eq!(test.engine.stats().failed, 0);
    assert_eq!(test.engine.live(), PolicyVersion(SWAPS));
}

/// False when the version left before it could be asked.
fn replays(test: &TestEngine, choice: &Choice) -> bool {
    let rollout = &choice.finished.rollout;
    let mut tokens = rollout.prompt.clone();
    tokens.extend(ids(&rollout.response));
    match test.engine.log_probs(rollout.version, &tokens) {
        Ok(log_probs) => {
            for (token, replayed) in rollout.response.iter().zip(&log_probs[rollout.prompt.len() - 1..]) {
                assert!((token.log_prob.0 - replayed.0).abs() < 1e-3);
            }
            true
        }
        Err(EngineError::NotResident(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn files_that_cannot_be_served_are_refused_and_nothing_changes() {
    let test = TestEngine::new();
    let folder = &test.folder;
    let good = std::fs::read(Model::default().write(folder)).unwrap();
    let refuse = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = test.engine.load(PolicyVersion(9), &path).unwrap_err();
        assert!(matches!(error, EngineError::Load { .. } | EngineError::Forward { .. }), "{name}: {error}");
    };
    refuse("empty", b"");
    refuse("text", b"hello, world, this is not a model");
    for at in [5, 30, 1000, good.len() / 4, good.len() / 2, good.len() - 1000] {
        refuse(&format!("cut at {at}"), &good[..at]);
    }
    let mut huge = good.clone();
    huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    refuse("huge tensor count", &huge);
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 65_000..].fill(0xFF);
    refuse("NaN weights", &nan);
    assert!(test.engine.load(PolicyVersion(9), folder.path()).is_err(), "a folder");
    assert!(test.engine.load(PolicyVersion(9), &folder.path().join("absent")).is_err());
    let again = test.engine.load(PolicyVersion::SFT, &folder.path().join("empty"));
    assert!(matches!(again, Err(EngineError::AlreadyLoaded(_))));
    assert_eq!(test.engine.residents().len(), 1);
    assert_eq!(test.ask(Ask::exactly(test.tokens("the"), 3)).len(), 1);
}

#[test]
fn promoting_what_is_not_there_changes_nothing() {
    let test = TestEngine::new();
    assert!(matches!(test.engine.promote(PolicyVersion(3)), Err(EngineError::NotResident(_))));
    assert_eq!(test.engine.live(), PolicyVersion::SFT);
    let refused = test.submit(Target::Version(PolicyVersion(3)), Ask::exactly(test.tokens("x"), 1));
    assert!(matches!(refused, Err(Rejection::UnknownVersion(_))));
}

/// Goal: a version loaded by a thread of the lowest priority serves at the engine's. Method: load at nice 19, then read the
/// owner thread's nice value.
#[test]
fn owner_threads_do_not_inherit_the_loaders_priority() {
    let test = TestEngine::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: lowers the priority of the calling thread (0) only.
            assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }, 0);
            test.load(4321);
        });
    });
    let nice = nice_of("engine-4321").expect("the owner thread runs");
    assert_eq!(nice, nice_of("engine-nursery").expect("the nursery runs"));
    assert!(nice < 19, "serving at nice {nice}");
}

/// Goal: what is read and checked before a version is loaded takes nothing from those that serve. Method: ask the thread that does it
/// for its class, and the caller afterwards for its own.
#[cfg(target_os = "linux")]
#[test]
fn work_beside_serving_is_in_the_idle_class() {
    let test = TestEngine::new();
    // SAFETY: 0 is the calling thread; a plain number comes back.
    let class = || unsafe { libc::sched_getscheduler(0) };
    let before = class();
    assert_eq!(test.engine.beside_serving(class), libc::SCHED_IDLE);
    assert_eq!(class(), before);
}

/// Nice value of this process' first thread of that name.
fn nice_of(name: &str) -> Option<i64> {
    std::fs::read_dir("/proc/self/task").unwrap().flatten().find_map(|task| {
        // Threads of other tests end while this looks.
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let is_it = head.split_once('(')?.1 == name;
        is_it.then(|| rest.split_whitespace().nth(16)?.parse().ok())?
    })
}
