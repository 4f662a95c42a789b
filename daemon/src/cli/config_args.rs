//! The arguments that make a configuration.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Args;
use config::{Config, ConfigError, Keys, Sources};

use super::Misuse;

/// What a daemon does not do that a command starts for its own ends: ask that command for a key, take in files from outside, or
/// report to the collector of the daemons. The user's own settings come after them.
pub(crate) const ALONE: [&str; 5] = [
    "daemon.api_keys_file=",
    "daemon.admin_keys_file=",
    "daemon.import_watch=off",
    "daemon.import_dir=",
    "daemon.traces_url=",
];

/// The configuration of a daemon that a command starts for its own ends, from settings that begin with [`ALONE`]. The keys of the
/// environment are the real daemons'.
///
/// # Errors
/// As [`Config::load`].
pub(crate) fn own_daemon<E>(sources: Sources<E>) -> Result<Config, ConfigError>
where
    E: IntoIterator<Item = (String, String)>,
{
    Ok(Config { keys: Keys::default(), ..Config::load(sources)? })
}

/// A path as the value of a knob, which is text.
///
/// # Errors
/// When it is not UTF-8: as text it would name another file.
pub(crate) fn knob_path<'a>(argument: &str, path: &'a Path) -> Result<&'a str, Misuse> {
    path.to_str().ok_or_else(|| Misuse(format!("{argument} {path:?}: the path must be UTF-8")))
}

/// Which knobs are not at their defaults.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file (TOML); `honed config print` shows one.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to serve on; port 0 picks a free one. A daemon that runs is found by its folder [daemon.listen].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Folder of the rollout log and the versions [daemon.data_dir].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// GGUF file to serve instead of the built-in model [policy.model].
    #[arg(long, value_name = "FILE")]
    pub model: Option<String>,
    /// Reward server to learn from; also sets reward.source=remote [reward.remote_url].
    #[arg(long, value_name = "URL")]
    pub reward_url: Option<String>,
    /// Any knob; may be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// Defaults, file, environment, then these arguments.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(Sources::of_process(self.config.clone(), self.assignments()))
    }

    /// For a daemon that is measured: a free port, a folder of its own, no learning of its own.
    pub(crate) fn for_bench(&self, data_dir: &Path) -> Result<Config, ConfigError> {
        self.for_bench_with(data_dir, &["ppo.enabled=false"])
    }

    /// The same with other settings than the defaults, which the user's own override.
    pub(crate) fn for_bench_with(&self, data_dir: &Path, settings: &[&str]) -> Result<Config, ConfigError> {
        own_daemon(Sources::of_process(self.config.clone(), self.bench_sets(data_dir, settings)))
    }

    /// The arguments of `honed serve` for what [`Self::for_bench`] describes.
    pub(crate) fn bench_arguments(&self, data_dir: &Path) -> Vec<OsString> {
        let file = self.config.iter().flat_map(|file| [OsString::from("--config"), file.into()]);
        let sets = self.bench_sets(data_dir, &["ppo.enabled=false"]).into_iter();
        file.chain(sets.flat_map(|set| ["--set".into(), set.into()])).collect()
    }

    fn bench_sets(&self, data_dir: &Path, settings: &[&str]) -> Vec<String> {
        let mut sets = vec!["daemon.listen=127.0.0.1:0".to_owned()];
        sets.extend(ALONE.iter().chain(settings).map(|set| (*set).to_owned()));
        sets.extend(self.assignments());
        sets.push(format!("daemon.data_dir={}", data_dir.display()));
        sets
    }

    /// `--set` comes last, so that it also wins over the named arguments.
    fn assignments(&self) -> Vec<String> {
        let named = [
            ("daemon.listen", &self.listen),
            ("daemon.data_dir", &self.data_dir),
            ("policy.model", &self.model),
            ("reward.remote_url", &self.reward_url),
        ];
        let mut sets: Vec<_> =
            named.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?))).collect();
        if self.reward_url.is_some() {
            sets.push("reward.source=remote".to_owned());
        }
        sets.extend(self.set.iter().cloned());
        sets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a bench measures answers, never refusals, and a file of the real daemons may be given to it. Method: that file, and the
    /// keys of the environment.
    #[test]
    fn a_daemon_of_a_commands_own_wants_no_key_and_takes_nothing_in() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = "[daemon]\napi_keys_file = \"keys\"\nadmin_keys_file = \"admins\"\nimport_dir = \"in\"\n\
            import_watch = \"promote\"\ntraces_url = \"http://c/t\"\n[policy]\nparallel = 3\n";
        std::fs::write(&file, text).expect("written");
        let args = ConfigArgs { config: Some(file.path().to_owned()), ..ConfigArgs::default() };
        let config = args.for_bench(Path::new("d")).expect("valid");
        assert_eq!(config.policy.parallel, 3);
        let daemon = config.daemon;
        for text in [&daemon.api_keys_file, &daemon.admin_keys_file, &daemon.import_dir, &daemon.traces_url] {
            assert_eq!(text, "");
        }
        assert_eq!(daemon.import_watch, "off");
        let env = [("HONED_API_KEYS".to_owned(), "k-one".to_owned())];
        let own = own_daemon(Sources { file: None, env, sets: Vec::new() }).expect("valid");
        assert_eq!(own.keys, Keys::default());
    }

    #[test]
    fn a_reward_url_makes_the_source_remote_and_set_wins() {
        let args = ConfigArgs {
            listen: Some("127.0.0.1:1".into()),
            reward_url: Some("http://127.0.0.1:9/r".into()),
            set: vec!["daemon.listen=127.0.0.1:2".into()],
            ..ConfigArgs::default()
        };
        let config = args.load().expect("valid");
        assert_eq!(
            (config.reward.source.as_str(), config.reward.remote_url.as_str()),
            ("remote", "http://127.0.0.1:9/r")
        );
        assert_eq!(config.daemon.listen, "127.0.0.1:2");
    }
}
