//! Every knob of honed: the only crate that reads TOML, the environment, or knows a default.

mod daemon;
mod policy;
mod ppo;
mod reward;

pub use daemon::Daemon;
pub use policy::Policy;
pub use ppo::{Ppo, PpoLog};
pub use reward::Reward;
use serde::Deserialize;

/// `honed.toml`: the defaults, each with unit, range and source.
pub const DEFAULTS: &str = include_str!("../honed.toml");

/// All sections.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
}

impl Default for Config {
    fn default() -> Self {
        toml::from_str(DEFAULTS).expect("the embedded honed.toml is checked by a test")
    }
}
