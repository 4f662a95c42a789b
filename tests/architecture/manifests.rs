//! What the manifests, the top level and the README must keep to.

use super::CRATES;

/// Dependencies that belong to one crate, beside the tests that look at its work.
const PLACES: [(&str, &[&str]); 9] = [
    ("toml", &["config"]),
    ("strsim", &["config"]),
    ("llama-cpp-2", &["policy"]),
    ("llama-cpp-sys-2", &["policy"]),
    ("tokenizers", &["policy"]),
    ("rusqlite", &["ppo"]),
    ("tokio", &["daemon"]),
    ("axum", &["daemon"]),
    ("clap", &["daemon"]),
];

/// Plain files and folders beside the crates.
const BESIDE_CRATES: [&str; 14] = [
    ".cargo",
    ".ci",
    ".github",
    ".gitattributes",
    ".gitignore",
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "rustfmt.toml",
];

pub(super) fn arrow_faults(name: &str, manifest: &str) -> Vec<String> {
    let place = |name: &str| CRATES.iter().position(|other| *other == name);
    let own = place(name).expect("a crate of the house");
    let is_backwards = |dependency: &String| place(dependency).is_some_and(|other| other <= own);
    let faults = dependencies(manifest).into_iter().filter(is_backwards);
    faults.map(|dependency| format!("{name}/Cargo.toml: {name} must not use {dependency}")).collect()
}

pub(super) fn place_faults(name: &str, manifest: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for dependency in dependencies(manifest) {
        let place = PLACES.iter().find(|(heavy, _)| *heavy == dependency);
        if let Some((_, crates)) = place.filter(|(_, crates)| !crates.contains(&name)) {
            faults.push(format!("{name}/Cargo.toml: {dependency} belongs to {}", crates.join(", ")));
        }
    }
    faults
}

/// Every version is in the workspace manifest, under a comment that says what the dependency buys.
pub(super) fn reason_faults(manifest: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut is_inside, mut has_reason) = (false, false);
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_inside = line == "[workspace.dependencies]";
        } else if line.starts_with('#') {
            has_reason = true;
        } else if line.trim().is_empty() {
            has_reason = false;
        } else if is_inside && !has_reason {
            faults.push(format!("Cargo.toml: no comment says what this buys: {line}"));
        }
    }
    faults
}

pub(super) fn top_level_faults<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<&str> = paths.filter_map(|path| path.split('/').next()).collect();
    names.sort_unstable();
    names.dedup();
    let is_known = |name: &&str| CRATES.contains(name) || BESIDE_CRATES.contains(name);
    names
        .into_iter()
        .filter(|name| !is_known(name))
        .map(|name| format!("{name} has no place at the top level"))
        .collect()
}

pub(super) fn readme_faults(readme: &str) -> Vec<String> {
    let is_missing = |name: &&&str| !readme.contains(&format!("{name}/"));
    CRATES.iter().filter(is_missing).map(|name| format!("README.md: the tree does not show {name}/")).collect()
}

/// Names under every kind of `[…dependencies]`, targets included.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_inside = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end().trim_end_matches(']');
            is_inside = section.ends_with("dependencies");
            // The long form: [dependencies.name]
            if let Some((_, name)) = section.rsplit_once("dependencies.") {
                names.push(name.to_owned());
            }
        } else if is_inside && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                names.push(name.trim_matches('"').to_owned());
            }
        }
    }
    names
}
