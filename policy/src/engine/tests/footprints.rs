//! What memory versions are promised, and what they take.

use super::*;
use crate::{
    engine::{footprint::Footprint, gguf::Inspected},
    memory::{Room, machine},
};

const ONE: PolicyVersion = PolicyVersion(1);

/// A file with weights of its own, for versions that [`TestEngine::load`] does not expect to be taken.
fn file(test: &TestEngine, version: u64) -> std::path::PathBuf {
    Model { seed: 100 + version, ..Model::default() }.write(&test.folder)
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
    assert_eq!(test.engine.residents().len(), 1);
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
    let error = test.engine.load(PolicyVersion(2), &file(&test, 2)).unwrap_err();
    assert!(error.lacks_room() && error.to_string().contains("of 0 MiB"), "{error}");
}

/// What a file of version 0's shape says.
fn inspected(test: &TestEngine, is_adapter: bool, is_f32: bool) -> Inspected {
    let decoder = test.engine.0.base.decoder_shape().ok_or_else(String::new);
    let (tokenizer, adapter_bytes) = (String::new(), 1000);
    Inspected { tokenizer, is_adapter, is_f32, has_f32_matrices: is_f32, adapter_bytes, decoder }
}
