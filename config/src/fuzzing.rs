//! What the fuzzer of the configuration does with an input; compiled for tests and under `cfg(fuzzing)` only.

use std::path::PathBuf;

use crate::{Config, ConfigError, DEFAULTS, Sources};

/// Inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let short = "[policy]\nparallel = 3\n[ppo]\nkl_coef = 1e-7\nptx = \"off\"\n[ppo.log]\nqueue = 9\n[daemon]\nlisten = \"a:1\"\n";
    vec![short.into(), DEFAULTS.into(), b"ppo.gamma=1\npolicy.seed = 9223372036854775807\n".to_vec()]
}

/// Gives the input to each of the three layers, a file, an assignment and a variable; how many admit it.
///
/// # Panics
/// When what is admitted cannot be printed and read again as the same, or when a refusal says nothing.
pub fn target(input: &[u8]) -> usize {
    let text = String::from_utf8_lossy(input);
    let as_file = admitted(load_file(&text));
    if let Some(config) = &as_file {
        let again = load_file(&config.print()).expect("what we print we can read");
        // Without their origins, which are told apart.
        assert_eq!(toml::Value::try_from(again), toml::Value::try_from(config));
    }
    let line = text.lines().next().unwrap_or_default();
    let (name, value) = line.split_once('=').unwrap_or((line, ""));
    let variable = (format!("HONED__{}", name.replace('.', "__")), value.to_owned());
    let as_variable = admitted(Config::load(Sources { file: None, env: vec![variable], sets: Vec::new() }));
    let as_set = admitted(Config::load(Sources { file: None, env: Vec::new(), sets: vec![line.to_owned()] }));
    [as_file, as_variable, as_set].iter().flatten().count()
}

fn admitted(result: Result<Config, ConfigError>) -> Option<Config> {
    result.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}

/// One file, written anew for every input: as users' files are read.
fn load_file(text: &str) -> Result<Config, ConfigError> {
    let path: PathBuf = std::env::temp_dir().join(format!("honed-fuzz-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("room on the disk");
    let loaded = Config::load(Sources { file: Some(path.clone()), env: Vec::new(), sets: Vec::new() });
    std::fs::remove_file(path).expect("it was just written");
    loaded
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_lead_into_every_layer() {
        let admitted: Vec<usize> = super::seeds().iter().map(|seed| super::target(seed)).collect();
        assert_eq!(admitted, [1, 1, 3], "two files, and one whose first line is an assignment and a variable too");
    }
}
