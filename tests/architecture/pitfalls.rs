//! The table of pitfalls in `tests/README.md`: whole, and of tests that exist.

/// Pitfalls that are numbered.
pub(super) const N_PITFALLS: usize = 45;
/// Over the section of the table.
const TITLE: &str = "## Pitfalls of learning from feedback";

/// What is wrong with the table. `read`: a file of the repository by its path, `None` where there is none; `golden`: numbers of
/// the golden files.
pub(super) fn faults(readme: &str, read: impl Fn(&str) -> Option<String>, golden: &[String]) -> Vec<String> {
    let Some((_, section)) = readme.split_once(TITLE) else {
        return vec![format!("no section {TITLE}")];
    };
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> =
        section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| number")).collect();
    let mut faults = Vec::new();
    for (number, row) in (1..).zip(&rows) {
        if !row.starts_with(&format!("| {number} |")) {
            faults.push(format!("expected pitfall {number}, got {row}"));
        }
        let cell = row.split(" | ").nth(2).unwrap_or_default();
        let names = tests_of(cell).count() + golden_of(cell).len();
        if names == 0 {
            faults.push(format!("pitfall {number} names no test"));
        }
        faults.extend(
            golden_of(cell).into_iter().filter(|file| !golden.contains(file)).map(|file| format!("no golden {file}")),
        );
    }
    if rows.len() != N_PITFALLS {
        faults.push(format!("expected {N_PITFALLS} pitfalls, got {}", rows.len()));
    }
    faults.extend(
        tests_of(section)
            .filter(|(path, name)| !read(path).is_some_and(|text| is_test(&text, name)))
            .map(|(path, name)| format!("{path} has no test {name}")),
    );
    faults
}

/// Path and name of every `path.rs::name` between backticks.
fn tests_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::"))
}

/// The numbers after "golden", up to the next mark.
fn golden_of(cell: &str) -> Vec<String> {
    let Some(list) = cell.trim_start().strip_prefix("golden ") else {
        return Vec::new();
    };
    let list = list.split([';', '|']).next().unwrap_or_default();
    list.split(',').map(|number| number.trim().to_owned()).collect()
}

/// Whether a text has a test of this name: a function under the attribute, others between them or not.
fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declares = |line: &&str| line.starts_with(&format!("fn {name}()"));
    lines.iter().enumerate().filter(|(_, line)| declares(line)).any(|(at, _)| {
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).any(|line| *line == "#[test]")
    })
}
