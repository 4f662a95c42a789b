//! The layers of a configuration, each over the one before: embedded defaults, file, environment, `--set`.
//!
//! A layer is flattened into assignments of dotted keys. Every assignment is judged by its key's [`Rule`] as it arrives,
//! while it is still known who made it, so that the struct at the end cannot hold a value that nobody checked.
//!
//! [`Rule`]: crate::rule::Rule

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};

use crate::{
    DEFAULTS, LORA_DEFAULTS, SECTIONS, Sources,
    collector::{self, Collector},
    error::ConfigError,
    origin::{Origin, Origins},
    rule::{Knob, Section},
};

const ENVIRONMENT_PREFIX: &str = "HONED__";

/// The value of every key, checked, with the layer that decided it.
pub(crate) struct Layers {
    values: BTreeMap<String, (Value, Origin)>,
    unusable: Option<String>,
}

impl Layers {
    pub(crate) fn stack<E>(sources: Sources<E>) -> Result<Layers, ConfigError>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let mut layers = Layers { values: BTreeMap::new(), unusable: None };
        let defaults = DEFAULTS.parse().expect("a test parses the embedded honed.toml");
        layers.put_table("", defaults, &Origin::Default)?;
        if let Some(path) = &sources.file {
            layers.put_table("", read_table(path)?, &Origin::File(path.clone()))?;
        }
        // Sorted, so that of two wrong variables the same one is always reported.
        let environment: BTreeMap<String, String> = sources.env.into_iter().collect();
        match collector::of(&environment) {
            Collector::None => {}
            Collector::Usable { variable, url } => {
                layers.put_text("daemon.traces_url", &url, Origin::Environment(variable.to_owned()))?;
            }
            Collector::Unusable(why) => layers.unusable = Some(why),
        }
        for (variable, text) in environment {
            if let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) {
                let key = name.to_lowercase().replace("__", ".");
                layers.put_text(&key, &text, Origin::Environment(variable))?;
            }
        }
        for assignment in &sources.sets {
            let (key, text) =
                assignment.split_once('=').ok_or_else(|| ConfigError::Assignment { text: assignment.clone() })?;
            layers.put_text(key.trim(), text, Origin::Set)?;
        }
        layers.suit_adapters()?;
        Ok(layers)
    }

    /// Puts the defaults of adapters where adapters are asked for and nobody has named another value.
    fn suit_adapters(&mut self) -> Result<(), ConfigError> {
        let rank = self.values.get("ppo.lora_rank").and_then(|(value, _)| value.as_integer());
        if rank.is_none_or(|rank| rank == 0) {
            return Ok(());
        }
        let named = self.values.clone().into_iter().filter(|(_, (_, origin))| *origin != Origin::Default);
        let named: BTreeMap<_, _> = named.collect();
        self.put_table("", LORA_DEFAULTS.parse().expect("a test parses the embedded lora.toml"), &Origin::Lora)?;
        self.values.extend(named);
        Ok(())
    }

    /// Why no traces are sent although the environment names a collector; `None` as well where a name of ours says where they go.
    pub(crate) fn untraced(&self) -> Option<String> {
        let is_default = matches!(self.values.get("daemon.traces_url"), Some((_, Origin::Default)));
        self.unusable.clone().filter(|_| is_default)
    }

    /// The nested table that the sections are deserialised from, and the origins beside it.
    pub(crate) fn split(self) -> (Table, Origins) {
        let mut root = Table::new();
        let mut origins = Origins::default();
        for (key, (value, origin)) in self.values {
            insert(&mut root, &key, value);
            if origin != Origin::Default {
                origins.0.insert(key, origin);
            }
        }
        (root, origins)
    }

    fn put_table(&mut self, path: &str, table: Table, origin: &Origin) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = if path.is_empty() { name } else { format!("{path}.{name}") };
            let is_section = section(&key).is_some();
            match value {
                Value::Table(inner) if is_section => self.put_table(&key, inner, origin)?,
                Value::Table(_) => return Err(unknown_section(&key, origin)),
                value if is_section => return Err(not_a_section(&key, &value, origin)),
                value => {
                    let knob = knob(&key).ok_or_else(|| unknown_key(&key, origin))?;
                    self.put(&key, knob, value, origin.clone())?;
                }
            }
        }
        Ok(())
    }

    fn put_text(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let knob = knob(key).ok_or_else(|| unknown_key(key, &origin))?;
        self.put(key, knob, knob.rule.read(text), origin)
    }

    fn put(&mut self, key: &str, knob: &Knob, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let refused = || ConfigError::Value {
            key: key.to_owned(),
            expected: knob.rule.to_string(),
            value: value.to_string(),
            origin: origin.clone(),
        };
        let admitted = knob.rule.admit(value.clone()).ok_or_else(refused)?;
        self.values.insert(key.to_owned(), (admitted, origin));
        Ok(())
    }
}

fn read_table(path: &Path) -> Result<Table, ConfigError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: name(), cause })?;
    text.parse().map_err(|cause| ConfigError::Syntax { path: name(), cause: Box::new(cause) })
}

fn insert(root: &mut Table, key: &str, value: Value) {
    let mut table = root;
    let mut names = key.split('.').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            table.insert(name.to_owned(), value);
            return;
        }
        let inner = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        table = inner.as_table_mut().expect("no key of the table of knobs is also a section");
    }
}

fn section(path: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.path == path)
}

fn knob(key: &str) -> Option<&'static Knob> {
    let (path, name) = key.rsplit_once('.')?;
    section(path)?.knobs.iter().find(|knob| knob.name == name)
}

fn unknown_section(path: &str, origin: &Origin) -> ConfigError {
    let nearest = SECTIONS
        .iter()
        .min_by_key(|section| strsim::damerau_levenshtein(section.path, path))
        .expect("there are sections");
    ConfigError::UnknownSection { section: path.to_owned(), origin: origin.clone(), nearest: nearest.path.to_owned() }
}

fn not_a_section(key: &str, value: &Value, origin: &Origin) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        expected: format!("a table, [{key}]"),
        value: value.to_string(),
        origin: origin.clone(),
    }
}

/// The suggestion: fewest edits of the key's own name, then fewest of its section's, so that a right name in a wrong
/// section finds home.
fn unknown_key(key: &str, origin: &Origin) -> ConfigError {
    let (path, name) = key.rsplit_once('.').unwrap_or(("", key));
    let nearest = SECTIONS
        .iter()
        .flat_map(|section| section.knobs.iter().map(move |knob| (section.path, knob.name)))
        .min_by_key(|(section, knob)| {
            (3 * strsim::damerau_levenshtein(knob, name), strsim::damerau_levenshtein(section, path))
        })
        .expect("there are knobs");
    ConfigError::UnknownKey {
        key: key.to_owned(),
        origin: origin.clone(),
        nearest: format!("{}.{}", nearest.0, nearest.1),
    }
}
