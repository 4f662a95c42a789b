//! The numbers of an independent program.
//!
//! Goal: the production mathematics agree with values that were computed elsewhere: numpy loops in float64 with
//! hand-written gradients, checked against finite differences, torch autograd and the peers' own functions. Method: every
//! JSON file of a folder is a list of cases with inputs and outputs; each is computed with what the learner itself calls, and
//! every output must be met within the file's tolerance. A file, or an output, that nothing here checks is a failure, so that
//! new numbers cannot be added in vain.
//!
//! Where production has no bare function for a file's inputs, they become what it has: logits a model ([`said`]), rows a round
//! ([`rounds`]). A model is in f32, with the tolerance for it; the oracle of tape operations is held to the same numbers
//! in f64. What a file has beyond production is named beside its check below.
//!
//! `HONED_GOLDEN` names another folder, with more files of the same shape.

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
mod rounds;
mod said;
mod sampling;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use numbers::{Case, GoldenFile};

type Check = fn(&mut Case<'_>);

/// Which function checks which file. A comment says what nothing but tests calls, and is checked all the same.
const CHECKS: [(&str, Check); 22] = [
    ("01_logprob_gather", language_model::log_prob_gather),
    ("02_kl_estimators", rewards::kl_estimators),
    ("03_rewards", rewards::token_rewards),
    ("04_adaptive_kl", rewards::adaptive_kl),
    ("05_gae", rewards::gae),
    // The mean kept, and the variance over n - 1: rounds whiten by `Whitening::default()`.
    ("06_whiten", rewards::whiten),
    ("07_policy_loss", losses::policy_loss),
    ("08_value_loss", losses::value_loss),
    ("09_decoupled_ppo", off_policy::decoupled_ppo),
    ("10_entropy", language_model::entropy),
    // `PairNormaliser::ChooseK2`: no option of `honed train reward` asks for it. `ranking_batch_loss`, beside the trainer's sum.
    ("11_rm_loss", reward_model::ranking_loss),
    ("12_rm_norm_ensemble", reward_model::normalization),
    // A GRPO epsilon other than TRL's.
    ("13_group_advantages", critic_free::group_advantages),
    ("14_ppo_ptx", losses::ppo_ptx),
    ("15_optimisers", optimisation::optimisers),
    // `linear_to_zero`: rates of a learner that has no end stay, those of a run fall by a cosine.
    ("16_lr_schedules", optimisation::schedules),
    // `is_exactly_on_policy`: rollouts are admitted by the mass that was kept at each token (`rollout_log::eligibility`).
    ("17_behaviour_logprob", sampling::behavior_log_prob),
    // The mean of means: fine-tuning knows the mean over tokens only, so `Aggregation` is asked.
    ("18_sft_loss", language_model::sft_loss),
    ("19_staleness", off_policy::staleness),
    ("20_full_minibatch", minibatch::full_minibatch),
    // Gao et al.'s curves of best-of-n and RL, and their peaks: for whoever reads an experiment.
    ("21_metrics", outcomes::metrics),
    // All of `optimum`: the judge of `enumerable_world` and of `ppo`'s own rounds.
    ("22_kl_regularised_optimum", outcomes::optimum),
];

/// The repository's folder, and the one that somebody names.
fn folders() -> Vec<PathBuf> {
    let named = env::var_os("HONED_GOLDEN").filter(|folder| !folder.is_empty());
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    std::iter::once(own).chain(named.map(PathBuf::from)).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "json"));
    files.sort();
    assert!(!files.is_empty(), "{}: no golden files", folder.display());
    files
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
    let files = folders().into_iter().flat_map(|folder| files(&folder));
    let wrong: Vec<String> = files.flat_map(|path| mismatches(&path)).collect();
    assert!(wrong.is_empty(), "{} of the golden numbers are missed:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_check_has_its_file_in_the_repository() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, _) in CHECKS {
        assert!(folder.join(format!("{name}.json")).is_file(), "{name}.json is missing");
    }
}
