//! The configuration of an offline run: a daemon's that learns from this run alone, and nothing that needs traffic or people.

use config::{Config, Sources};
use policy::engine::CHOICES_MAX;
use ppo::experience::AdvantageEstimator;

use super::Args;
use crate::{
    cli::{Misuse, knob_path, say},
    train::error::{Result, TrainError},
};

/// Answers that may wait in the engine; a round is handed over at once.
const QUEUE: usize = 100_000;

/// What counts here of `[daemon]`.
const OF_DAEMON: [&str; 2] = ["drain_s", "log_format"];

/// The knobs of the run; `--set` comes last and wins, where it can.
///
/// # Errors
/// When a knob is wrong, or asks for what there is not.
pub(super) fn of(args: &Args) -> Result<Config> {
    let out = knob_path("--out", &args.out).map_err(TrainError::Settings)?;
    let sources = Sources::of_process(args.config.clone(), assignments(args).map_err(TrainError::Settings)?);
    let mut config = Config::load(sources)?;
    check_sets(&args.set)?;
    config.daemon = offline(&config.daemon, out);
    check_judge(&config)?;
    check_groups(&config, args.samples as usize)?;
    if config.ppo.canary_share > 0.0 {
        say::tell("ppo.canary_share is taken as 0: there is no traffic here that a canary could answer a part of");
        config.ppo.canary_share = 0.0;
    }
    Ok(config)
}

fn assignments(args: &Args) -> std::result::Result<Vec<String>, Misuse> {
    let mut sets = vec![
        format!("policy.max_queue={QUEUE}"),
        format!("policy.max_queue_sequences={}", QUEUE * CHOICES_MAX as usize),
        // As many as any context has: what waits here is the command's own.
        "policy.max_queue_tokens=1000000000000".to_owned(),
        // Whoever asks for learning is told when nobody could judge.
        "ppo.enabled=true".to_owned(),
        "ppo.user_share_max=1.0".to_owned(),
    ];
    if let Some(model) = &args.model {
        sets.push(format!("policy.model={}", knob_path("--model", model)?));
    }
    if let Some(model) = &args.reward_model {
        let model = knob_path("--reward-model", model)?;
        sets.extend([format!("reward.model={model}"), "reward.source=model".to_owned()]);
    }
    if let Some(url) = &args.reward_url {
        sets.extend([format!("reward.remote_url={url}"), "reward.source=remote".to_owned()]);
    }
    sets.extend(args.set.iter().cloned());
    Ok(sets)
}

/// A file may be shared with a daemon, and what it says of one is no fault here; what is given to this command is meant for it.
fn check_sets(sets: &[String]) -> Result<()> {
    let keys = sets.iter().filter_map(|set| set.split('=').next()?.trim().strip_prefix("daemon."));
    match keys.into_iter().find(|key| !OF_DAEMON.contains(key)) {
        Some(key) => Err(refused(format!(
            "--set daemon.{key}: this command runs no daemon; of [daemon] it takes {} only, and its folder is --out",
            OF_DAEMON.join(" and ")
        ))),
        None => Ok(()),
    }
}

/// A daemon's section for a run that serves nobody: files that appear in `daemon.import_dir` would become its versions, and
/// whoever watches a daemon would see this run for one.
fn offline(daemon: &config::Daemon, out: &str) -> config::Daemon {
    config::Daemon {
        data_dir: out.to_owned(),
        drain_s: daemon.drain_s,
        log_format: daemon.log_format.clone(),
        ..Config::default().daemon
    }
}

fn refused(why: String) -> TrainError {
    TrainError::Settings(Misuse(why))
}

fn check_judge(config: &Config) -> Result<()> {
    let reward = &config.reward;
    let is_built_in = reward.source == "model" && reward.model.is_empty();
    if is_built_in && !config.policy.model.is_empty() {
        return Err(refused(
            "the built-in reward model judges the built-in model only; name a judge with --reward-model FILE or \
             --reward-url URL"
                .to_owned(),
        ));
    }
    let asks_people = match reward.source.as_str() {
        "feedback" => Some("reward.source = \"feedback\"".to_owned()),
        "mix" if reward.mix_feedback != 0.0 => Some(format!("reward.mix_feedback = {}", reward.mix_feedback)),
        _ => None,
    };
    match asks_people {
        Some(knob) => Err(refused(format!(
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
        return Err(refused(format!(
            "ppo.rollouts_per_update = {n_rollouts} is no multiple of --samples {n_samples}: a round holds all answers \
             to its prompts"
        )));
    }
    if n_samples == 1 && AdvantageEstimator::of(&config.ppo).compares() {
        let estimator = &config.ppo.advantage_estimator;
        return Err(refused(format!(
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

    fn args(given: &[&std::ffi::OsStr]) -> Args {
        let known = <Args as clap::Args>::augment_args(clap::Command::new("ppo"));
        let given = ["ppo", "--prompts", "p"].map(std::ffi::OsStr::new).into_iter().chain(given.iter().copied());
        <Args as clap::FromArgMatches>::from_arg_matches(&known.get_matches_from(given)).expect("well-formed")
    }

    /// Goal: a file that a daemon has may be given here, and nothing in it makes a daemon of the run. Method: one with every such
    /// knob; then the same on the command line, where it would be a mistake.
    #[test]
    fn an_offline_run_takes_nothing_of_a_daemon_but_its_log_and_its_patience() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[daemon]\nlisten = \"0.0.0.0:1\"\ndata_dir = \"theirs\"\nimport_dir = \"in\"\n\
            import_watch = \"promote\"\ntraces_url = \"http://c/t\"\ndrain_s = 7\nlog_format = \"json\"\n\
            [ppo]\nkl_coef = 0.3\n";
        std::fs::write(&file, text).unwrap();
        let given = ["--out", "ours", "--config"].map(std::ffi::OsStr::new);
        let config = of(&args(&[&given[..], &[file.path().as_os_str()]].concat())).unwrap();
        assert_eq!(config.ppo.kl_coef, 0.3);
        let expected = config::Daemon {
            data_dir: "ours".to_owned(),
            drain_s: 7,
            log_format: "json".to_owned(),
            ..Config::default().daemon
        };
        assert_eq!(config.daemon, expected);
        check_sets(&["daemon.drain_s=9".to_owned(), "ppo.epochs=1".to_owned()]).unwrap();
        check_refused(check_sets(&[" daemon.data_dir = x".to_owned()]), &["daemon.data_dir", "--out"]);
        check_refused(check_sets(&["daemon.import_watch=load".to_owned()]), &["runs no daemon"]);
    }

    #[test]
    fn a_judge_of_the_file_is_taken_unless_another_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[reward]\nsource = \"remote\"\nremote_url = \"http://h/r\"\n").unwrap();
        let source = |more: &[&str]| {
            let given = ["--out", "d", "--config"].map(std::ffi::OsStr::new);
            let more: Vec<_> = more.iter().map(std::ffi::OsStr::new).collect();
            of(&args(&[&given[..], &[file.path().as_os_str()], &more].concat())).unwrap().reward.source
        };
        assert_eq!(source(&[]), "remote");
        assert_eq!(source(&["--reward-model", "r.gguf"]), "model");
        assert_eq!(source(&["--set", "reward.source=model"]), "model");
    }

    /// A knob is text: such a path would come out as another folder's.
    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let odd = std::ffi::OsStr::from_bytes(b"d\xff");
        let out = std::ffi::OsStr::new("--out");
        check_refused(of(&args(&[out, odd])).map(drop), &["--out", "UTF-8"]);
        for name in ["--model", "--reward-model"] {
            let given = [out, "d".as_ref(), name.as_ref(), odd];
            check_refused(of(&args(&given)).map(drop), &[name, "UTF-8"]);
        }
    }

    #[test]
    fn people_judge_nothing_offline() {
        check_refused(check_judge(&config(&["reward.source=feedback"])), &["reward.source", "--reward-model FILE"]);
        let mixed = ["reward.source=mix", "reward.mix_model=1", "reward.mix_feedback=0.5"];
        check_refused(check_judge(&config(&mixed)), &["reward.mix_feedback = 0.5"]);
        check_judge(&config(&mixed[..2])).unwrap();
    }
}
