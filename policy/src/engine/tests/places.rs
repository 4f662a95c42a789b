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
use crate::{
    engine::{footprint::Footprint, gguf::Inspected},
    memory::{Room, machine},
};

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

/// Goal: a version for which there is no memory is refused before any of it is asked for. Method: a file that says to be larger
/// than any machine.
#[test]
fn what_would_not_fit_is_refused_with_its_numbers() {
    let test = TestEngine::new();
    let path = file(&test, 1);
    let huge = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    // A hole: it takes no room on the disk.
    huge.set_len(1 << 42).unwrap();
    let error = test.engine.load(ONE, &path).unwrap_err();
    assert!(error.lacks_room(), "{error}");
    let (text, room) = (error.to_string(), machine().expect("this machine says what it has"));
    let cache = if on_decoder() { 2 } else { 1 };
    let parts = format!("weights 4194304, key-value cache {cache}, ");
    assert!(text.contains(&parts) && text.contains(room.limit), "{text}");
    assert_eq!(in_memory(&test), [0]);
    assert_eq!(test.ask(Ask::exactly(test.tokens("the"), 3)).len(), 1);
}

/// Goal: a footprint counts what a resident takes. Method: by hand, for a file in f32, one in f16 and an adapter.
#[test]
fn a_footprint_counts_weights_caches_and_passes() {
    let test = TestEngine::with(Model::default(), |config| config.prefix_cache_tokens = 1024);
    let (base, setup) = (&test.engine.0.base, test.engine.setup(ONE, &file(&test, 1)));
    let of = |is_adapter, is_f32, bytes| {
        let found = inspected(&test, is_adapter, is_f32);
        Footprint::of(base, &setup, &found, bytes)
    };
    // Two layers, two heads of sixteen, keys and values; eight sequences of 256 tokens, and 1024 tokens beside them. The decoder's
    // values fill panels.
    let value = if on_decoder() { 32 } else { 16 };
    let cells = |number: u64| 2 * 2 * (16 + value) * number * (8 * 256 + 1024);
    let (exact, rounded, adapter) = (of(false, true, 9_000_000), of(false, false, 9_000_000), of(true, false, 1000));
    // In f32 the scores of four heads are a matrix of llama.cpp's.
    let scores = if on_decoder() { 0 } else { (512 + 8) * 4 * 256 * 4 };
    assert_eq!(exact.bytes() - rounded.bytes(), cells(4) - cells(2) + scores);
    assert_eq!(exact.bytes() - adapter.bytes(), 9_000_000 - 1000, "as exact as version 0, which is in f32");
    assert!(test.engine.bytes_of_another(false) > test.engine.bytes_of_another(true));
    let room = |available| Some(Room { available, limit: "the machine" });
    exact.check(ONE, None).unwrap();
    exact.check(ONE, room(exact.bytes())).unwrap();
    let refused = exact.check(ONE, room(exact.bytes() - 1)).unwrap_err().to_string();
    let parts = format!("weights 9, key-value cache {}, kept prompts 1", if on_decoder() { 2 } else { 1 });
    assert!(refused.contains(&parts) && refused.contains("policy@1"), "{refused}");
}

/// Goal: what is promised to who is in memory is not promised again, though it is taken only as it is needed. Method: what is still
/// untaken of version 0's cache, before and after long answers and once another version is there.
#[test]
fn memory_that_is_promised_is_spoken_for() {
    let test = TestEngine::with(Model::default(), |config| config.prefix_cache_tokens = 0);
    let before = test.engine.untaken_bytes();
    let ask = Ask { n: 8, ..Ask::exactly(test.tokens("the user"), 200) };
    test.ask(ask.clone());
    let after = test.engine.untaken_bytes();
    if !on_decoder() {
        assert_eq!((before, after), (0, 0), "llama.cpp takes it at once");
        return;
    }
    // Eight sequences of seven pages, of 32 positions in two layers of two heads in f32, each once.
    let taken = 8 * 7 * 32 * 2 * 2 * (16 + 32) * 4;
    let page = 32 * 2 * 2 * (16 + 32) * 4;
    assert!(before - after >= taken - 8 * page && before - after <= taken, "{before} {after}");
    test.ask(ask);
    assert_eq!(test.engine.untaken_bytes(), after, "nothing new was needed");
    test.load(1);
    assert_eq!(test.engine.untaken_bytes(), after + before);
    // Promised all that there is, who is in memory leaves none for another.
    let first = test.engine.resident(PolicyVersion::SFT).unwrap();
    first.load.untaken_bytes.store(1 << 50, Ordering::Relaxed);
    let error = test.engine.load(TWO, &file(&test, 2)).unwrap_err();
    assert!(error.lacks_room() && error.to_string().contains("of 0 MiB"), "{error}");
}

/// What a file of version 0's shape says.
fn inspected(test: &TestEngine, is_adapter: bool, is_f32: bool) -> Inspected {
    let decoder = test.engine.0.base.decoder_shape().ok_or_else(String::new);
    let (tokenizer, adapter_bytes) = (String::new(), 1000);
    Inspected { tokenizer, is_adapter, is_f32, has_f32_matrices: is_f32, adapter_bytes, decoder }
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
