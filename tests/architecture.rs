//! The guard of the house: what HOUSE.md calls invariants and a compiler cannot see, read from the sources themselves.
//!
//! Most of them say what is *absent*. A rule is a plain function from one file to its faults; `guard` shows for every rule
//! that it sees a fault and leaves good code alone. The text is read without a parser: comments and literals are blanked
//! first, tests are taken out, and rustfmt, which `make lint` enforces, makes the rest regular enough.

mod files;
mod guard;
mod manifests;
mod pitfalls;
mod rules;

use std::path::PathBuf;

use files::SourceFile;

/// Crates from left to right of the arrow: each may use those after it.
const CRATES: [&str; 7] = ["fuzz", "tests", "daemon", "ppo", "reward", "policy", "config"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fails with every fault that a rule finds in any file.
fn check(rule: fn(&SourceFile) -> Vec<String>) {
    let files = files::all(&root(), &CRATES);
    for name in CRATES {
        let is_seen = |file: &SourceFile| file.path.starts_with(&format!("{name}/"));
        assert!(files.iter().any(is_seen), "the guard does not see {name}/");
    }
    report(files.iter().flat_map(rule).collect());
}

fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn crates_use_only_crates_to_their_right() {
    report(
        CRATES.iter().flat_map(|name| manifests::arrow_faults(name, &read(&format!("{name}/Cargo.toml")))).collect(),
    );
}

#[test]
fn heavy_dependencies_stay_in_their_crates() {
    let faults = |name: &&str| manifests::place_faults(name, &read(&format!("{name}/Cargo.toml")));
    report(CRATES.iter().flat_map(faults).collect());
}

#[test]
fn every_dependency_states_its_reason() {
    report(manifests::reason_faults(&read("Cargo.toml")));
}

#[test]
fn the_top_level_is_fixed() {
    let listed = std::process::Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output();
    match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let names = String::from_utf8_lossy(&output.stdout);
            report(manifests::top_level_faults(names.split('\0').filter(|name| !name.is_empty())));
        }
        _ => eprintln!("skipped: the files of the top level are known to git only, and there is none here"),
    }
}

#[test]
fn the_readme_names_every_crate() {
    report(manifests::readme_faults(&read("README.md")));
}

#[test]
fn nothing_below_the_daemon_is_async() {
    check(rules::no_async_below_daemon);
}

#[test]
fn json_lives_on_the_wire() {
    check(rules::json_in_its_place);
}

#[test]
fn sql_lives_in_the_rollout_log() {
    check(rules::sql_in_its_place);
}

#[test]
fn llama_cpp_lives_in_the_engine() {
    check(rules::llama_in_its_place);
}

#[test]
fn the_environment_is_read_by_config() {
    check(rules::environment_in_its_place);
}

#[test]
fn operations_without_gradient_are_not_used() {
    check(rules::no_fused_operations);
}

#[test]
fn a_process_can_be_made_to_die_at_every_change_that_lasts() {
    check(rules::failpoint_beside_what_lasts);
}

#[test]
fn files_and_functions_are_short() {
    check(rules::short_files);
    check(rules::short_functions);
}

#[test]
fn every_file_says_what_it_is() {
    check(rules::opens_with_essay);
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    check(rules::no_unwrap);
}

#[test]
fn nothing_is_left_unfinished() {
    check(rules::nothing_unfinished);
}

#[test]
fn every_pitfall_has_a_test_that_exists() {
    let golden: Vec<String> = std::fs::read_dir(root().join("tests/golden"))
        .expect("a folder")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter_map(|name| Some(name.strip_suffix(".json")?.split('_').next()?.to_owned()))
        .collect();
    let source = |path: &str| std::fs::read_to_string(root().join(path)).ok();
    report(pitfalls::faults(&read("tests/README.md"), source, &golden));
}
