//! Every knob of honed: the only crate that reads TOML, the environment, or knows a default.
//!
//! A value is decided by the last of four layers that names its key: the embedded `honed.toml`, the file given to
//! `--config`, the environment (`HONED__PPO__LOG__COMMIT_MS`), and `--set ppo.log.commit_ms=20`. Where these ask for adapters, the
//! embedded `lora.toml` decides what none but the first of them has named. What leaves [`Config::load`] is within its ranges and
//! agrees with itself, so nothing above checks a knob again.

mod agreement;
mod assignments;
mod collector;
mod daemon;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod keys;
mod layers;
mod origin;
mod policy;
mod ppo;
mod print;
mod reward;
mod rule;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use daemon::Daemon;
pub use error::ConfigError;
pub use keys::{KEY_VARIABLES, KeyList, Keys};
pub use origin::{Origin, Origins};
pub use policy::Policy;
pub use ppo::{LORA_ALPHA, LORA_RANK_MAX, Ppo, PpoLog};
pub use reward::Reward;
use serde::{Deserialize, Serialize};

/// `honed.toml`: the defaults, each with unit, range and source.
pub const DEFAULTS: &str = include_str!("../honed.toml");
/// `lora.toml`: the defaults that are others where adapters learn.
const LORA_DEFAULTS: &str = include_str!("../lora.toml");

/// The tables of the file in its order.
const SECTIONS: [rule::Section; 5] = [Policy::SECTION, Reward::SECTION, Ppo::SECTION, PpoLog::SECTION, Daemon::SECTION];

/// All sections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What acts.
    pub policy: Policy,
    /// What judges.
    pub reward: Reward,
    /// What learns.
    pub ppo: Ppo,
    /// The process.
    pub daemon: Daemon,
    /// Who decided each value.
    #[serde(skip)]
    pub origins: Origins,
    /// Keys from the environment: no knobs, because knobs are printed.
    #[serde(skip)]
    pub keys: Keys,
    /// Why no traces are sent although the environment names a collector, for the log of whoever serves.
    #[serde(skip)]
    pub untraced: Option<String>,
}

/// What may override the embedded defaults.
pub struct Sources<E> {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// The environment; only names that begin with `HONED__`, those of [`Keys`], and OpenTelemetry's of a collector are read.
    pub env: E,
    /// `section.key=value`, later ones over earlier ones.
    pub sets: Vec<String>,
}

impl Sources<Vec<(String, String)>> {
    /// The environment of this process, beside a file and assignments of the command line.
    pub fn of_process(file: Option<PathBuf>, sets: Vec<String>) -> Self {
        // `std::env::vars` panics on the first variable that is not UTF-8, whoever it belongs to.
        let env = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect();
        Sources { file, env, sets }
    }
}

impl Config {
    /// Stacks the layers and checks every value and the agreement between values.
    pub fn load<E>(sources: Sources<E>) -> Result<Config, ConfigError>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let env: Vec<(String, String)> = sources.env.into_iter().collect();
        let keys = Keys::of(&env)?;
        let layers = layers::Layers::stack(Sources { file: sources.file, env, sets: sources.sets })?;
        let untraced = layers.untraced();
        let (root, origins) = layers.split();
        let mut config: Config = root.try_into().expect("every key is present, and its rule admits only its own type");
        config.origins = origins;
        config.keys = keys;
        config.untraced = untraced;
        config.check_agreement()?;
        Ok(config)
    }
}

impl Default for Config {
    fn default() -> Self {
        let nothing = Sources { file: None, env: Vec::new(), sets: Vec::new() };
        Config::load(nothing).expect("the embedded honed.toml is checked by a test")
    }
}
