//! What the fuzzer of the configuration does with an input; compiled for tests and under `cfg(fuzzing)` only.

use std::path::PathBuf;

use crate::{Config, ConfigError, DEFAULTS, Sources};

/// Inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let short = "[policy]\nparallel = 3\n[ppo]\nkl_coef = 1e-7\nptx = \"off\"\n[ppo.log]\nqueue = 9\n[daemon]\nlisten = \"a:1\"\n";
    vec![short.into(), DEFAULTS.into(), b"ppo.gamma=1\npolicy.seed = 9223372036854775807\n".to_vec()]
}

/// Gives the input to each of the three layers: a file, an assignment and a variable.
///
/// # Panics
/// When what is admitted cannot be printed and read again as the same, or when a refusal says nothing.
pub fn target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(config) = admitted(load_file(&text)) {
        let again = load_file(&config.print()).expect("what we print we can read");
        assert_eq!(again.ppo.assignments(), config.ppo.assignments());
    }
    let line = text.lines().next().unwrap_or_default();
    let (name, value) = line.split_once('=').unwrap_or((line, ""));
    let variable = (format!("HONED__{}", name.replace('.', "__")), value.to_owned());
    admitted(Config::load(Sources { file: None, env: vec![variable], sets: Vec::new() }));
    admitted(Config::load(Sources { file: None, env: Vec::new(), sets: vec![line.to_owned()] }));
}

fn admitted(result: Result<Config, ConfigError>) -> Option<Config> {
    result.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}

/// One file, written anew for every input: as users' files are read.
fn load_file(text: &str) -> Result<Config, ConfigError> {
    let path: PathBuf = std::env::temp_dir().join(format!("honed-fuzz-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("room on the disk");
    Config::load(Sources { file: Some(path), env: Vec::new(), sets: Vec::new() })
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_pass() {
        super::seeds().iter().for_each(|seed| super::target(seed));
    }
}
