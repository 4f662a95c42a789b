use std::{
    sync::{
        Barrier,
        atomic::AtomicBool,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::*;

const ONE: PolicyVersion = PolicyVersion(1);
const TWO: PolicyVersion = PolicyVersion(2);

fn in_memory(test: &TestEngine) -> Vec<u64> {
    test.engine.residents().iter().map(|resident| resident.version.0).collect()
}

/// A file with weights of its own, for versions that [`TestEngine::load`] does not expect to be taken.
fn file(test: &TestEngine, version: u64) -> std::path::PathBuf {
    Model { seed: 100 + version, ..Model::default() }.write(&test.folder)
}

/// A response that stands still at its first token, until the sender is dropped.
fn stuck(test: &TestEngine, version: PolicyVersion) -> Sender<()> {
    let (held, release) = channel::<()>();
    let (reached, begun) = channel();
    let (mut request, _) = request(Ask::exactly(test.tokens("the"), 3));
    request.sink = Box::new(move |event| {
        if matches!(event, Event::Token { .. }) {
            reached.send(()).unwrap_or_default();
            // Ends with the sender.
            release.recv().unwrap_or_default();
        }
    });
    test.engine.submit(Target::Version(version), request).unwrap();
    begun.recv().unwrap();
    held
}

/// The second version serves, and the first one has stepped down with a response that stands still; it goes on when the result drops.
fn leaving(test: &TestEngine) -> Sender<()> {
    test.load(1);
    test.engine.promote(ONE).unwrap();
    let held = stuck(test, ONE);
    test.load(2);
    test.engine.promote(TWO).unwrap();
    test.engine.step_down(ONE).unwrap();
    held
}

/// Goal: no more versions than may be are ever in memory. Method: a live one and one that stays; a third is refused without a
/// wait, by names, and finds its place once one has left.
#[test]
fn a_version_too_many_is_refused_and_told_who_is_there() {
    let test = TestEngine::new();
    test.load(1);
    test.engine.promote(ONE).unwrap();
    assert!(!test.engine.is_full());
    test.load(2);
    assert!(test.engine.is_full() && !test.engine.make_room(PolicyVersion(3)));
    let asked = Instant::now();
    let error = test.engine.load(PolicyVersion(3), &file(&test, 3)).unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(5), "nobody is leaving");
    assert!(error.lacks_room(), "{error}");
    assert!(error.to_string().contains("policy@1, policy@2"), "{error}");
    assert_eq!(in_memory(&test), [0, 1, 2]);
    test.engine.retire(TWO).unwrap();
    assert!(!test.engine.is_full(), "it is leaving");
    test.load(3);
    assert_eq!(in_memory(&test), [0, 1, 3]);
}

/// Goal: an old version's answers are neither cut nor joined by a version too many. Method: a response that stands still on the
/// version before, while another one is loaded; then it goes on.
#[test]
fn a_load_waits_for_the_answers_of_whoever_leaves() {
    let test = TestEngine::new();
    let held = leaving(&test);
    assert!(!test.engine.is_full(), "who has stepped down is in nobody's way");
    let path = file(&test, 3);
    thread::scope(|scope| {
        let load = scope.spawn(|| test.engine.load(PolicyVersion(3), &path));
        while test.engine.is_ready(ONE) {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(200));
        assert!(!load.is_finished() && !test.engine.make_room(PolicyVersion(3)));
        assert_eq!(in_memory(&test), [0, 1, 2]);
        drop(held);
        load.join().unwrap().unwrap();
    });
    assert_eq!(in_memory(&test), [0, 2, 3]);
    assert_eq!(test.engine.stats().failed, 0);
}

/// Goal: whoever waits for a place keeps nobody from another. Method: a load that waits for a response which stands still; meanwhile
/// a version comes that is to go live.
#[test]
fn who_waits_for_a_place_is_in_nobodys_way() {
    let test = TestEngine::new();
    let held = leaving(&test);
    let (third, fourth) = (file(&test, 3), file(&test, 4));
    thread::scope(|scope| {
        let load = scope.spawn(|| test.engine.load(PolicyVersion(3), &third));
        while test.engine.is_ready(ONE) {
            thread::yield_now();
        }
        test.engine.load_to_serve(PolicyVersion(4), &fourth).unwrap();
        assert!(!load.is_finished(), "it waits still");
        test.engine.promote(PolicyVersion(4)).unwrap();
        test.engine.step_down(TWO).unwrap();
        drop(held);
        load.join().unwrap().unwrap();
    });
    assert_eq!(in_memory(&test), [0, 3, 4]);
}

/// Goal: the way back to the version before waits for nobody. Method: it has left service, and one of its responses stands still; it
/// is loaded again, and a third version is not.
#[test]
fn whoever_comes_back_takes_its_own_place() {
    let test = TestEngine::new();
    test.load(1);
    let held = stuck(&test, ONE);
    test.load(2);
    test.engine.promote(TWO).unwrap();
    test.engine.retire(ONE).unwrap();
    assert!(test.engine.make_room(ONE) && !test.engine.make_room(PolicyVersion(3)));
    test.engine.load(ONE, &test.engine.residents()[1].path).unwrap();
    assert_eq!(test.engine.promote(ONE).unwrap(), TWO);
    assert!(test.engine.is_full() && !test.engine.make_room(PolicyVersion(3)), "one version has one place");
    drop(held);
    assert_eq!(test.ask(Ask::exactly(test.tokens("the"), 3))[0].finished.rollout.version, ONE);
}

/// Goal: a version that leaves takes no entry along but its own. Method: it is loaded again while one of its responses stands still,
/// and leaves once more, another response running; then the first of the two has left.
#[test]
fn whoever_leaves_is_not_taken_for_its_successor() {
    let test = TestEngine::new();
    test.load(1);
    let (before, first) = (test.engine.resident(ONE).unwrap(), stuck(&test, ONE));
    test.engine.retire(ONE).unwrap();
    test.engine.load(ONE, &before.path).unwrap();
    let (after, second) = (test.engine.resident(ONE).unwrap(), stuck(&test, ONE));
    test.engine.retire(ONE).unwrap();
    drop(first);
    assert!(before.wait_freed(Duration::from_secs(30)));
    assert_eq!(in_memory(&test), [0, 1], "it answers still");
    assert!(test.engine.is_anybody_leaving());
    drop(second);
    assert!(after.wait_freed(Duration::from_secs(30)));
    assert_eq!(in_memory(&test), [0]);
    assert!(!test.engine.is_anybody_leaving());
}

/// Goal: who is to serve does not wait for whoever is judged. Method: a live version and one that stays; a third is refused, and
/// comes when it is to go live. Beside it there is no place then, nor a second one more.
#[test]
fn who_is_to_serve_has_one_place_more() {
    let test = TestEngine::new();
    test.load(1);
    test.engine.promote(ONE).unwrap();
    test.load(2);
    let [third, fourth] = [3, 4].map(PolicyVersion);
    assert!(matches!(test.engine.load(third, &file(&test, 3)), Err(EngineError::Crowded { .. })));
    test.engine.load_to_serve(third, &file(&test, 3)).unwrap();
    assert!(matches!(test.engine.load_to_serve(fourth, &file(&test, 4)), Err(EngineError::Crowded { .. })));
    assert_eq!(test.engine.promote(third).unwrap(), ONE);
    test.engine.step_down(ONE).unwrap();
    assert!(test.engine.is_full(), "the live one, and one that is judged");
    test.engine.load_to_serve(fourth, &file(&test, 4)).unwrap();
    assert_eq!(in_memory(&test), [0, 2, 3, 4]);
}

/// Goal: a thread that ended in a panic has no place. Method: a client whose sink panics on it; then another version comes.
#[test]
fn a_thread_that_panicked_keeps_no_place() {
    let test = TestEngine::new();
    test.load(1);
    test.load(2);
    let (mut request, _) = request(Ask::exactly(test.tokens("the"), 3));
    request.sink = Box::new(|_| panic!("of a test"));
    let two = test.engine.resident(TWO).unwrap();
    test.engine.submit(Target::Version(TWO), request).unwrap();
    assert!(two.wait_freed(Duration::from_secs(30)));
    assert!(!test.engine.is_full());
    test.load(3);
}

/// Goal: whoever loads plans with what the one before has left. Method: two threads that load as fast as they can; the residents
/// never have two guests.
#[test]
fn two_loads_at_once_take_turns() {
    let test = TestEngine::with(Model::default(), |config| config.residents_max = 8);
    let paths: Vec<_> = (1..=6).map(|version| file(&test, version)).collect();
    let (start, is_done) = (Barrier::new(2), AtomicBool::new(false));
    let most = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !is_done.load(Ordering::Acquire) {
                most = most.max(test.engine.0.counters.rest.n_guests());
                thread::yield_now();
            }
            most
        });
        let load = |first: u64| {
            start.wait();
            for version in (first..=6).step_by(2) {
                test.engine.load(PolicyVersion(version), &paths[version as usize - 1]).unwrap();
            }
        };
        let loads = [1, 2].map(|first| scope.spawn(move || load(first)));
        loads.into_iter().for_each(|load| load.join().unwrap());
        is_done.store(true, Ordering::Release);
        watch.join().unwrap()
    });
    assert_eq!(most, 1);
    assert_eq!(in_memory(&test), [0, 1, 2, 3, 4, 5, 6]);
}

/// Goal: nobody is blamed for another version's failures, and they are counted in what finishes are counted in. Method: requests
/// for three choices that make the pass of one version fail, which has a token whose embedding is no number; what is counted of it,
/// of version 0, and of all.
#[test]
fn failures_are_counted_where_they_happen() {
    /// Not among those of a canary.
    const SPOILT: u32 = 17;
    let test = TestEngine::new();
    let path = file(&test, 1);
    let mut checkpoint = crate::checkpoint::Checkpoint::read(&path).unwrap();
    let table = checkpoint.tensors.get_mut("token_embd.weight").unwrap();
    let mut rows: Vec<Vec<f32>> = table.to_vec2().unwrap();
    rows[SPOILT as usize].fill(f32::NAN);
    *table = candle_core::Tensor::new(rows, &candle_core::Device::Cpu).unwrap();
    let path = test.folder.path().join("spoilt.gguf");
    checkpoint.write(&path).unwrap();
    test.engine.load(ONE, &path).unwrap();
    for version in [ONE, PolicyVersion::SFT, ONE] {
        let (request, events) = request(Ask { n: 3, ..Ask::exactly(vec![TokenId(SPOILT)], 3) });
        test.engine.submit(Target::Version(version), request).unwrap();
        let has_failed = events.iter().any(|event| matches!(event, Event::Failed(_)));
        assert_eq!(has_failed, version == ONE);
    }
    assert_eq!(test.engine.endings(ONE), Endings { failed_requests: 2, failed: 6, ..Endings::default() });
    assert_eq!(test.engine.endings(PolicyVersion::SFT), Endings { finished: 3, ..Endings::default() });
    assert_eq!(test.engine.endings(TWO), Endings::default());
    assert_eq!(test.engine.stats().failed, 2);
}
