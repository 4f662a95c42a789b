//! What versions that have gone leave behind in the process.

use std::{thread, time::Duration};

use super::*;

/// Set in the process that has one of the tests below to itself.
const ALONE: &str = "HONED_SWAPS_ALONE";

/// Whether this is that process; otherwise it has been one that passed the test.
fn is_alone(name: &str, allocator: &[(&str, &str)]) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    // Of this copy of the suite: without the name of the crate.
    let module = module_path!().split_once("::").expect("a module of a crate").1;
    let name = format!("{module}::{name}");
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").envs(allocator.iter().copied());
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
    false
}

/// Goal: unloading frees. Method: thirty swaps, each with traffic; memory and threads after the last are those after the
/// fifth. In a process of its own, because memory and threads are the whole process', other tests included; and with an
/// allocator that gives back what is freed, because what it keeps differs by megabytes from run to run.
#[test]
fn thirty_swaps_leave_memory_and_threads_flat() {
    let allocator = [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "0"), ("MALLOC_MMAP_THRESHOLD_", "65536")];
    if !is_alone("thirty_swaps_leave_memory_and_threads_flat", &allocator) {
        return;
    }
    let test = TestEngine::new();
    let mut early = (0, 0);
    for version in 1..=30 {
        test.load(version);
        let old = test.engine.promote(PolicyVersion(version)).unwrap();
        test.ask(Ask::exactly(test.tokens("the user"), 8));
        if old != PolicyVersion::SFT {
            let resident = test.engine.resident(old).unwrap();
            test.engine.retire(old).unwrap();
            assert!(resident.wait_freed(Duration::from_secs(30)));
        }
        if version == 5 {
            early = (resident_kib(), n_threads());
        }
    }
    let (memory, threads) = (resident_kib(), n_threads());
    println!("{early:?} became {memory} KiB, {threads} threads");
    // A leak of a model (0.7 MiB), of a context (8 MiB) or of a thread in each of 25 swaps stands out.
    assert!(memory < early.0 + 4 * 1024, "{} KiB became {memory}", early.0);
    assert!(threads < early.1 + 12, "{} threads became {threads}", early.1);
}

/// Goal: what unloading frees leaves the process, also under the allocator as it comes. Method: twenty swaps, each loaded by a thread
/// of its own and with caches that glibc keeps when they are freed; the most memory after any of the last ten.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn what_is_freed_does_not_stay_with_the_allocator() {
    if !is_alone("what_is_freed_does_not_stay_with_the_allocator", &[]) {
        return;
    }
    let test = TestEngine::with(Model::default(), |config| config.context_tokens = 4096);
    let mut seen = Vec::new();
    for version in 1..=20 {
        thread::scope(|scope| drop(scope.spawn(|| test.load(version))));
        let old = test.engine.promote(PolicyVersion(version)).unwrap();
        test.engine.step_down(old).unwrap();
        test.ask(Ask::exactly(test.tokens("the user"), 8));
        seen.push(resident_kib());
    }
    let (early, most) = (seen[4], *seen[10..].iter().max().unwrap());
    // It was twice as much.
    assert!(most < early + 24 * 1024, "{early} KiB became {most}: {seen:?}");
}

fn status(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn resident_kib() -> usize {
    status("VmRSS")
}

fn n_threads() -> usize {
    status("Threads")
}
