//! The effective configuration as a file that could be loaded again.

use std::fmt::Write;

use toml::Value;

use crate::{Config, Origin, SECTIONS};

impl Config {
    /// TOML with every effective value under what it is for and what it may hold, and behind it where it came from. Loading it
    /// gives the same configuration.
    #[must_use]
    pub fn print(&self) -> String {
        let root = Value::try_from(self).expect("numbers, switches and strings are TOML");
        let mut text = String::new();
        for section in SECTIONS {
            let table = section.path.split('.').fold(&root, |table, name| &table[name]);
            let blank = if text.is_empty() { "" } else { "\n" };
            writeln!(text, "{blank}[{}]", section.path).expect("a String takes all text");
            for knob in section.knobs {
                let origin = self.origins.of(&format!("{}.{}", section.path, knob.name));
                // What follows from another knob stays free to follow it: named, it would stay when that one changes.
                let mark = if origin == Origin::Lora { "# " } else { "" };
                // A comment ends at a line break, and a path may hold one.
                let origin = origin.to_string().replace(char::is_control, " ");
                let value = match &table[knob.name] {
                    // Shortest form that reads back: 2e-6, where the TOML writer gives 0.000002.
                    Value::Float(x) => format!("{x:?}"),
                    value => value.to_string(),
                };
                writeln!(text, "# {} [{}]\n{mark}{} = {value} # {origin}", knob.doc.trim(), knob.rule, knob.name)
                    .expect("a String takes all text");
            }
        }
        text
    }
}
