//! The command that serves what a run has made.

use std::path::Path;

use super::Args;

/// `honed serve` with the model, the judge and the knobs that the run was called with: without them the folder is refused as
/// another model's, or nobody judges there.
pub(super) fn command(args: &Args) -> String {
    let mut words = vec!["honed serve".to_owned()];
    let mut give = |name: &str, value: &str| words.extend([name.to_owned(), quoted(value)]);
    if let Some(file) = &args.config {
        give("--config", &shown(file));
    }
    if let Some(model) = &args.model {
        give("--model", &shown(model));
    }
    give("--data-dir", &shown(&args.out));
    if let Some(model) = &args.reward_model {
        give("--set", &format!("reward.model={}", shown(model)));
        if args.config.is_some() {
            // The file may name another source.
            give("--set", "reward.source=model");
        }
    }
    if let Some(url) = &args.reward_url {
        give("--reward-url", url);
    }
    args.set.iter().for_each(|set| give("--set", set));
    words.join(" ")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn told(arguments: &[&str]) -> String {
        let known = <Args as clap::Args>::augment_args(Command::new("ppo"));
        let given = ["ppo", "--prompts", "p.jsonl", "--out", "my data"].into_iter().chain(arguments.iter().copied());
        command(&Args::from_arg_matches(&known.get_matches_from(given)).expect("well-formed"))
    }

    #[test]
    fn the_command_names_all_that_the_folder_needs() {
        assert_eq!(told(&[]), "honed serve --data-dir 'my data'");
        assert_eq!(
            told(&["--model", "a.gguf", "--reward-model", "it's.gguf"]),
            r"honed serve --model a.gguf --data-dir 'my data' --set 'reward.model=it'\''s.gguf'"
        );
        assert_eq!(
            told(&["--model", "a.gguf", "--reward-url", "http://127.0.0.1:9/r", "--set", "ppo.kl_coef=0.1"]),
            "honed serve --model a.gguf --data-dir 'my data' --reward-url http://127.0.0.1:9/r --set ppo.kl_coef=0.1"
        );
        assert_eq!(
            told(&["--config", "c.toml", "--reward-model", "r.gguf"]),
            "honed serve --config c.toml --data-dir 'my data' --set reward.model=r.gguf --set reward.source=model"
        );
    }
}
