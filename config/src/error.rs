//! What can be wrong with a configuration.

use crate::origin::Origin;

/// Why a configuration was refused. Each message names the key, what is expected, what was found and where it came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {cause}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {cause}")]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        cause: Box<toml::de::Error>,
    },
    /// `--set` without a key and a value.
    #[error("--set {text}: expected section.key=value")]
    Assignment {
        /// What was given.
        text: String,
    },
    /// No such section.
    #[error("unknown section `{section}` (from {origin}); did you mean `{nearest}`?")]
    UnknownSection {
        /// What was given.
        section: String,
        /// Where.
        origin: Origin,
        /// The most similar section.
        nearest: String,
    },
    /// No such key.
    #[error("unknown key `{key}` (from {origin}); did you mean `{nearest}`?")]
    UnknownKey {
        /// What was given.
        key: String,
        /// Where.
        origin: Origin,
        /// The most similar key.
        nearest: String,
    },
    /// Keys of the environment that are none. What the variable holds is a secret and not part of the message.
    #[error("{variable} in the environment: {reason}")]
    Keys {
        /// Its name.
        variable: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A value of the wrong type, out of its range, or at odds with another key.
    #[error("`{key}`: expected {expected}, got {value} (from {origin})")]
    Value {
        /// The key.
        key: String,
        /// The rule that it breaks.
        expected: String,
        /// What was given.
        value: String,
        /// Where.
        origin: Origin,
    },
}
