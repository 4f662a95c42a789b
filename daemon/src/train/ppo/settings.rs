//! The configuration of an offline run: a daemon's that learns from this run alone, and nothing that needs traffic or people.

use config::{Config, Sources};
use ppo::experience::AdvantageEstimator;

use super::Args;
use crate::train::error::{Result, TrainError};

/// Answers that may wait in the engine; a round is handed over at once.
const QUEUE: usize = 100_000;

/// The knobs of the run; `--set` comes last and wins, where it can.
///
/// # Errors
/// When a knob is wrong, or asks for what there is not.
pub(super) fn of(args: &Args) -> Result<Config> {
    let sources = Sources::of_process(args.config.clone(), assignments(args));
    let mut config = Config::load(sources)?;
    check_judge(&config)?;
    check_groups(&config, args.samples as usize)?;
    if config.ppo.canary_share > 0.0 {
        eprintln!("ppo.canary_share is taken as 0: there is no traffic here that a canary could answer a part of");
        config.ppo.canary_share = 0.0;
    }
    Ok(config)
}

fn assignments(args: &Args) -> Vec<String> {
    let mut sets = vec![
        format!("daemon.data_dir={}", args.out.display()),
        format!("policy.max_queue={QUEUE}"),
        "ppo.enabled=true".to_owned(),
        "ppo.user_share_max=1.0".to_owned(),
    ];
    let named = [("policy.model", &args.model), ("reward.model", &args.reward_model)];
    sets.extend(named.iter().filter_map(|(key, path)| Some(format!("{key}={}", path.as_ref()?.display()))));
    match &args.reward_url {
        Some(url) => sets.extend([format!("reward.remote_url={url}"), "reward.source=remote".to_owned()]),
        // Whoever asked for a source of scores is told when there is none.
        None => sets.push("reward.source=model".to_owned()),
    }
    sets.extend(args.set.iter().cloned());
    sets
}

fn check_judge(config: &Config) -> Result<()> {
    let reward = &config.reward;
    let is_built_in = reward.source == "model" && reward.model.is_empty();
    if is_built_in && !config.policy.model.is_empty() {
        return Err(TrainError::NoJudge);
    }
    let asks_people = match reward.source.as_str() {
        "feedback" => Some("reward.source = \"feedback\"".to_owned()),
        "mix" if reward.mix_feedback != 0.0 => Some(format!("reward.mix_feedback = {}", reward.mix_feedback)),
        _ => None,
    };
    match asks_people {
        Some(knob) => Err(TrainError::Settings(format!(
            "{knob} waits for what people say, and nobody sees the answers of this command; name a judge with \
             --reward-model FILE or --reward-url URL"
        ))),
        None => Ok(()),
    }
}

/// A round that ends within the answers to a prompt would leave the rest to the next one, where they are alone and stale.
fn check_groups(config: &Config, n_samples: usize) -> Result<()> {
    let n_rollouts = config.ppo.rollouts_per_update;
    if !n_rollouts.is_multiple_of(n_samples) {
        return Err(TrainError::Settings(format!(
            "ppo.rollouts_per_update = {n_rollouts} is no multiple of --samples {n_samples}: a round holds all answers \
             to its prompts"
        )));
    }
    if n_samples == 1 && AdvantageEstimator::of(&config.ppo).compares() {
        let estimator = &config.ppo.advantage_estimator;
        return Err(TrainError::Settings(format!(
            "ppo.advantage_estimator = \"{estimator}\" compares the answers to a prompt, and --samples 1 draws one; \
             give --samples 2 or more"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(sets: &[&str]) -> Config {
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        Config::load(Sources { file: None, env: Vec::<(String, String)>::new(), sets }).unwrap()
    }

    #[track_caller]
    fn check_refused(result: Result<()>, words: &[&str]) {
        let said = result.unwrap_err().to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }

    #[test]
    fn a_round_holds_all_answers_to_its_prompts() {
        let sixteen = config(&["ppo.rollouts_per_update=16", "ppo.minibatch=8"]);
        for n_samples in [1, 2, 4, 8, 16] {
            check_groups(&sixteen, n_samples).unwrap();
        }
        for n_samples in [3, 32, 128] {
            let samples = format!("--samples {n_samples}");
            check_refused(check_groups(&sixteen, n_samples), &["ppo.rollouts_per_update = 16", &samples]);
        }
    }

    #[test]
    fn an_estimator_that_compares_answers_needs_several_to_a_prompt() {
        for estimator in ["rloo", "grpo", "dr_grpo", "reinforce_pp_baseline"] {
            let config = config(&[&format!("ppo.advantage_estimator={estimator}")]);
            check_refused(check_groups(&config, 1), &[estimator, "--samples 2"]);
            check_groups(&config, 2).unwrap();
        }
        check_groups(&config(&["ppo.advantage_estimator=reinforce_pp"]), 1).unwrap();
    }

    #[test]
    fn people_judge_nothing_offline() {
        check_refused(check_judge(&config(&["reward.source=feedback"])), &["reward.source", "--reward-model FILE"]);
        let mixed = ["reward.source=mix", "reward.mix_model=1", "reward.mix_feedback=0.5"];
        check_refused(check_judge(&config(&mixed)), &["reward.mix_feedback = 0.5"]);
        check_judge(&config(&mixed[..2])).unwrap();
    }
}
