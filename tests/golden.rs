//! The numbers of an independent program.
//!
//! Goal: the production mathematics agree with values that were computed elsewhere: numpy loops in float64 with
//! hand-written gradients, checked against finite differences, torch autograd and the peers' own functions. Method: every
//! JSON file of a folder is a list of cases with inputs and outputs; each is computed with the functions that the learner
//! itself calls, and every output must be met within the file's tolerance. A file, or an output, that nothing here
//! checks is a failure, so that new numbers cannot be added in vain.
//!
//! `HONED_GOLDEN` names another folder with files of the same shape.

mod critic_free;
mod language_model;
mod losses;
mod minibatch;
mod numbers;
mod off_policy;
mod optimisation;
mod outcomes;
mod reward_model;
mod rewards;
mod sampling;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use numbers::{Case, GoldenFile};

type Check = fn(&mut Case<'_>);

/// Which function checks which file.
const CHECKS: [(&str, Check); 22] = [
    ("01_logprob_gather", language_model::log_prob_gather),
    ("02_kl_estimators", rewards::kl_estimators),
    ("03_rewards", rewards::token_rewards),
    ("04_adaptive_kl", rewards::adaptive_kl),
    ("05_gae", rewards::gae),
    ("06_whiten", rewards::whiten),
    ("07_policy_loss", losses::policy_loss),
    ("08_value_loss", losses::value_loss),
    ("09_decoupled_ppo", off_policy::decoupled_ppo),
    ("10_entropy", language_model::entropy),
    ("11_rm_loss", reward_model::ranking_loss),
    ("12_rm_norm_ensemble", reward_model::normalization),
    ("13_group_advantages", critic_free::group_advantages),
    ("14_ppo_ptx", losses::ppo_ptx),
    ("15_optimisers", optimisation::optimisers),
    ("16_lr_schedules", optimisation::schedules),
    ("17_behaviour_logprob", sampling::behavior_log_prob),
    ("18_sft_loss", language_model::sft_loss),
    ("19_staleness", off_policy::staleness),
    ("20_full_minibatch", minibatch::full_minibatch),
    ("21_metrics", outcomes::metrics),
    ("22_kl_regularised_optimum", outcomes::optimum),
];

fn folder() -> PathBuf {
    match env::var_os("HONED_GOLDEN") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
    }
}

/// What is wrong with one file.
fn mismatches(path: &Path) -> Vec<String> {
    let file = GoldenFile::read(path);
    match CHECKS.iter().find(|(name, _)| *name == file.name) {
        Some((_, check)) => file.run(*check),
        None => vec![format!("{}: nothing checks this file", file.name)],
    }
}

#[test]
fn production_mathematics_meet_every_golden_number() {
    let folder = folder();
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "json"));
    files.sort();
    assert!(!files.is_empty(), "{}: no golden files", folder.display());
    let wrong: Vec<String> = files.iter().flat_map(|path| mismatches(path)).collect();
    assert!(wrong.is_empty(), "{} of the golden numbers are missed:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_check_has_its_file_in_the_repository() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, _) in CHECKS {
        assert!(folder.join(format!("{name}.json")).is_file(), "{name}.json is missing");
    }
}
