//! What one key may hold, and the macro that declares a section.
//!
//! A knob is declared once, with its documentation, its type and its [`Rule`]. The macro turns the declaration into the
//! plain struct that the other crates read and into the table that the loader checks against, so a range cannot be
//! stated in one place and enforced in another. A test holds the comments of `honed.toml` to the same table.

use std::fmt;

use toml::Value;

/// What a key may hold. Its text is the bracketed end of the key's comment in `honed.toml`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// `true` or `false`.
    Switch,
    /// A whole number between two bounds, both allowed.
    Whole(i64, i64),
    /// A finite number between two bounds, both allowed.
    Real(f64, f64),
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// Text of a certain form: what is expected, and the judge.
    Text(&'static str, fn(&str) -> bool),
}

/// One key of a section.
pub(crate) struct Knob {
    /// Its name within the section.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) doc: &'static str,
    /// What it may hold.
    pub(crate) rule: Rule,
}

/// One table of the file.
pub(crate) struct Section {
    /// `ppo.log`, for example.
    pub(crate) path: &'static str,
    /// Its keys, in the order in which they are documented.
    pub(crate) knobs: &'static [Knob],
}

/// Declares a section: the public struct, and the table of its knobs.
macro_rules! section {
    (
        #[doc = $doc:literal]
        $name:ident, $path:literal {
            $(#[doc = $knob_doc:literal] $knob:ident: $type:ty => $rule:expr;)*
        }
        $(with $inner:ident: $inner_type:ty)?
    ) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(#[doc = $knob_doc] pub $knob: $type,)*
            $(#[doc = "The section below it."] pub $inner: $inner_type,)?
        }

        impl $name {
            pub(crate) const SECTION: $crate::rule::Section = $crate::rule::Section {
                path: $path,
                knobs: &[$($crate::rule::Knob { name: stringify!($knob), doc: $knob_doc, rule: $rule }),*],
            };
        }
    };
}
pub(crate) use section;

pub(crate) const SWITCH: Rule = Rule::Switch;
pub(crate) const TEXT: Rule = Rule::Text("any text", |_| true);
pub(crate) const NOT_EMPTY: Rule = Rule::Text("any text but empty", |text| !text.is_empty());
pub(crate) const LISTEN: Rule = Rule::Text("host:port", |text| {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
});
// The HTTP client is built without TLS: a reward server is a neighbour, and a promise of https must not be broken silently.
pub(crate) const REMOTE_URL: Rule = Rule::Text("empty or http://host…", |text| {
    text.is_empty() || text.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
});
// An origin is scheme and host, never a path; `*` would open an API without keys to every page that a user visits.
pub(crate) const ORIGINS: Rule =
    Rule::Text("empty, or origins like https://chat.example with commas between them", |text| {
        text.is_empty() || text.split(',').map(str::trim).all(is_origin)
    });
// Without ports: whoever asks under a listed name may do so on any.
pub(crate) const HOSTS: Rule = Rule::Text("empty, *, or names like chat.example with commas between them", |text| {
    let is_part = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(is_part) && (name.starts_with('[') || !name.contains(':'));
    text.is_empty() || text == "*" || text.split(',').map(str::trim).all(is_name)
});
pub(crate) const DEVICE: Rule = Rule::Text("\"cpu\" or \"cuda:N\"", |text| {
    text == "cpu" || text.strip_prefix("cuda:").is_some_and(|index| index.parse::<u8>().is_ok())
});
// `sft`, `reward` and `policy@3` already name models of the API.
pub(crate) const SERVED_NAME: Rule = Rule::Text("text without @; not empty, sft or reward", |text| {
    !text.is_empty() && !text.contains('@') && text != "sft" && text != "reward"
});

pub(crate) const fn whole(low: i64, high: i64) -> Rule {
    Rule::Whole(low, high)
}

pub(crate) const fn real(low: f64, high: f64) -> Rule {
    Rule::Real(low, high)
}

pub(crate) const fn one_of(words: &'static [&'static str]) -> Rule {
    Rule::OneOf(words)
}

impl Rule {
    /// The value as the section's struct wants it, or `None` when it breaks the rule. `6` is a real number, `1e4` a whole one.
    pub(crate) fn admit(&self, value: Value) -> Option<Value> {
        match (self, value) {
            (Rule::Switch, Value::Boolean(switch)) => Some(Value::Boolean(switch)),
            (Rule::Whole(low, high), Value::Integer(n)) => (*low..=*high).contains(&n).then_some(Value::Integer(n)),
            (Rule::Whole(..), Value::Float(x)) if is_exact_integer(x) => self.admit(Value::Integer(x as i64)),
            (Rule::Real(low, high), Value::Float(x)) => (*low..=*high).contains(&x).then_some(Value::Float(x)),
            (Rule::Real(..), Value::Integer(n)) => self.admit(Value::Float(n as f64)),
            (Rule::OneOf(words), Value::String(word)) => words.contains(&word.as_str()).then_some(Value::String(word)),
            (Rule::Text(_, allows), Value::String(text)) => allows(&text).then_some(Value::String(text)),
            _ => None,
        }
    }

    /// The value that a person means who writes `text` on a command line or into the environment, where quotes are a
    /// nuisance: TOML where it is TOML, else the bare text. A key that holds text takes anything but a quoted string
    /// as it stands, so a name may be `7` and a path may hold backslashes.
    pub(crate) fn read(&self, text: &str) -> Value {
        let bare = || Value::String(text.to_owned());
        let parsed: Option<Value> = text.trim().parse().ok();
        match (self, parsed) {
            (Rule::Text(..) | Rule::OneOf(_), Some(Value::String(quoted))) => Value::String(quoted),
            (Rule::Text(..) | Rule::OneOf(_), _) => bare(),
            (_, parsed) => parsed.unwrap_or_else(bare),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Switch => f.write_str("true or false"),
            Rule::Whole(low, high) => write!(f, "{low}..={high}"),
            Rule::Real(low, high) => write!(f, "{low:?}..={high:?}"),
            Rule::OneOf(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                write!(f, "one of {}", quoted.join(", "))
            }
            Rule::Text(expected, _) => f.write_str(expected),
        }
    }
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_part = |c: char| c.is_ascii_alphanumeric() || ".:-[]".contains(c);
    host.is_some_and(|host| !host.is_empty() && host.chars().all(is_part))
}

/// Whether a float names a whole number that both types hold exactly: beyond 2^53 neighbours are no longer told apart.
fn is_exact_integer(x: f64) -> bool {
    x.fract() == 0.0 && x.abs() <= (1_u64 << 53) as f64
}
