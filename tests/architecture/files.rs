//! Rust files as the rules see them.

use std::{fs, path::Path};

/// One file of the workspace.
pub(super) struct SourceFile {
    /// From the root of the repository, with slashes.
    pub(super) path: String,
    /// As it stands.
    pub(super) text: String,
    /// The same lines, with comments, literals and tests blanked.
    pub(super) code: String,
}

impl SourceFile {
    pub(super) fn new(path: &str, text: &str) -> SourceFile {
        let code = if is_test_path(path) { "\n".repeat(text.lines().count()) } else { without_tests(&blank(text)) };
        SourceFile { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// `path:line: what`, for the lines of code that are at fault.
    pub(super) fn faults(&self, what: &str, is_fault: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = (1..).zip(self.code.lines());
        lines.filter(|(_, line)| is_fault(line)).map(|(n, _)| format!("{}:{n}: {what}", self.path)).collect()
    }
}

/// Every Rust file of the crates, in order.
pub(super) fn all(root: &Path, crates: &[&str]) -> Vec<SourceFile> {
    let mut files = Vec::new();
    for name in crates {
        collect(root, name, &mut files);
    }
    files
}

fn collect(root: &Path, folder: &str, files: &mut Vec<SourceFile>) {
    let mut names: Vec<String> = fs::read_dir(root.join(folder))
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    for name in names {
        let path = format!("{folder}/{name}");
        if root.join(&path).is_dir() {
            collect(root, &path, files);
        } else if name.ends_with(".rs") {
            files.push(SourceFile::new(&path, &fs::read_to_string(root.join(&path)).expect("UTF-8")));
        }
    }
}

fn is_test_path(path: &str) -> bool {
    // `test_world.rs` and its like are helpers of unit tests, declared under `#[cfg(test)]`.
    path.split('/')
        .any(|part| part == "tests" || part == "tests.rs" || (part.starts_with("test_") && part.ends_with(".rs")))
}

/// The text with the contents of comments, strings and character literals replaced by spaces.
pub(super) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (n_kept, n_blanked) = next_piece(rest, out.chars().last());
        let n_kept = if n_blanked == 0 { n_kept.max(first.len_utf8()) } else { n_kept };
        out.push_str(&rest[..n_kept]);
        out.extend(rest[n_kept..n_kept + n_blanked].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[n_kept + n_blanked..];
    }
    out
}

/// How many bytes of the start are code, and how many after them are a comment or a literal.
fn next_piece(rest: &str, before: Option<char>) -> (usize, usize) {
    let until = |end: Option<usize>| end.unwrap_or(rest.len());
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        (0, until(rest.find('\n')))
    } else if rest.starts_with("/*") {
        (0, until(rest.find("*/").map(|end| end + 2)))
    } else if rest.starts_with("r\"") || rest.starts_with("r#") && !in_word {
        let n_hashes = rest[1..].chars().take_while(|c| *c == '#').count();
        let close = format!("\"{}", "#".repeat(n_hashes));
        let open = 1 + n_hashes + 1;
        match rest.get(open..).filter(|_| rest[1 + n_hashes..].starts_with('"')) {
            Some(body) => (0, until(body.find(&close).map(|end| open + end + close.len()))),
            None => (1, 0),
        }
    } else if rest.starts_with('"') {
        (0, until(unescaped(rest, '"')))
    } else if rest.starts_with('\'') {
        (0, char_literal(rest).unwrap_or(0))
    } else {
        (rest.chars().next().map_or(0, char::len_utf8), 0)
    }
}

/// Bytes up to and with the closing quote of a literal that starts the text.
fn unescaped(rest: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return Some(at + quote.len_utf8()),
            _ => {}
        }
    }
    None
}

/// Bytes of the character literal that starts the text; `None` for a lifetime.
fn char_literal(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        return unescaped(rest, '\'');
    }
    chars.next().filter(|(_, second)| *second == '\'').map(|(at, _)| at + 1)
}

/// Blanked text without the items under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            let indent = line.len() - line.trim_start().len();
            out.push_str(&"\n".repeat(1 + n_lines_of_item(&mut lines, indent)));
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// Consumes one item that is indented so deep: to its `;`, or to the brace that closes it.
fn n_lines_of_item<'a>(lines: &mut impl Iterator<Item = &'a str>, indent: usize) -> usize {
    let mut n_lines = 0;
    for line in lines {
        n_lines += 1;
        let is_at_indent = line.len() - line.trim_start().len() == indent;
        if is_at_indent && (line.trim_end().ends_with(';') || line.trim_end().ends_with('}')) {
            break;
        }
    }
    n_lines
}
