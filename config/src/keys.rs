//! Keys from the environment.
//!
//! `HONED_API_KEYS` and `HONED_ADMIN_KEYS` hold keys with commas or white space between them. They are no knobs: knobs are
//! printed, with their origin, and a key must not be. For the same reason errors name the variable and never what it holds.

use std::fmt;

use crate::ConfigError;

/// Both variables of the environment.
pub const KEY_VARIABLES: [&str; 2] = [API, ADMIN];
const API: &str = "HONED_API_KEYS";
const ADMIN: &str = "HONED_ADMIN_KEYS";

/// Keys that the environment holds; they count beside those of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// `HONED_API_KEYS`.
    pub api: KeyList,
    /// `HONED_ADMIN_KEYS`.
    pub admin: KeyList,
}

/// Keys, which no format shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyList(Vec<String>);

impl Keys {
    /// Those of an environment.
    pub(crate) fn of(env: &[(String, String)]) -> Result<Keys, ConfigError> {
        let list = |variable: &'static str| match env.iter().find(|(name, _)| name == variable) {
            Some((_, text)) => KeyList::parse(text).map_err(|reason| ConfigError::Keys { variable, reason }),
            None => Ok(KeyList::default()),
        };
        Ok(Keys { api: list(API)?, admin: list(ADMIN)? })
    }
}

impl KeyList {
    fn parse(text: &str) -> Result<KeyList, &'static str> {
        let is_between = |c: char| c == ',' || c.is_whitespace();
        let keys: Vec<String> = text.split(is_between).filter(|key| !key.is_empty()).map(str::to_owned).collect();
        if keys.is_empty() {
            // It would read as "no key needed", which nobody who set it meant.
            return Err("it is set and holds no key");
        }
        match keys.iter().flat_map(|key| key.bytes()).all(|byte| byte.is_ascii_graphic()) {
            true => Ok(KeyList(keys)),
            false => Err("a key holds a character that no header carries"),
        }
    }

    /// The keys themselves, to be compared and nothing else.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Debug for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}
