//! Where a value came from.

use std::{collections::BTreeMap, fmt, path::PathBuf};

/// The layer that decided a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The embedded `honed.toml`.
    #[default]
    Default,
    /// The embedded `lora.toml`, because `ppo.lora_rank` is above 0.
    Lora,
    /// The file given to `--config`.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// `--set` on the command line.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Lora => f.write_str("default with ppo.lora_rank"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(variable) => write!(f, "environment {variable}"),
            Origin::Set => f.write_str("--set"),
        }
    }
}

/// The origin of every key that is not at its default in `honed.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(pub(crate) BTreeMap<String, Origin>);

impl Origins {
    /// Where the value of `section.key` came from.
    pub fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or_default()
    }
}
