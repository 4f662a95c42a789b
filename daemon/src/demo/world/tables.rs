//! Reads `world.txt`: sections of lines, some of which are rows of a head and its items.
//!
//! The words live in a text file so that they can be read and edited as text; this file is the only one that parses it.

use std::{collections::BTreeMap, sync::LazyLock};

/// A line of the form "head: item, item".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// What stands before the colon.
    pub(crate) head: &'static str,
    /// What stands after it, split at ", ".
    pub(crate) items: Vec<&'static str>,
}

/// One section, read both ways; a section whose lines hold no ": " has no rows.
struct Section {
    lines: Vec<&'static str>,
    rows: Vec<Row>,
}

static SECTIONS: LazyLock<BTreeMap<&'static str, Section>> = LazyLock::new(|| {
    let mut sections: BTreeMap<&str, Section> = BTreeMap::new();
    let mut name = "";
    for line in include_str!("world.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(heading) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name = heading;
            continue;
        }
        let section = sections.entry(name).or_insert_with(|| Section { lines: Vec::new(), rows: Vec::new() });
        section.lines.push(line);
        if let Some((head, items)) = line.split_once(": ") {
            section.rows.push(Row { head, items: items.split(", ").collect() });
        }
    }
    sections
});

fn section(name: &str) -> &'static Section {
    SECTIONS.get(name).unwrap_or_else(|| panic!("world.txt has no section [{name}]"))
}

/// The lines of a section.
pub(crate) fn lines(name: &str) -> &'static [&'static str] {
    &section(name).lines
}

/// The rows of a section.
pub(crate) fn rows(name: &str) -> &'static [Row] {
    &section(name).rows
}
