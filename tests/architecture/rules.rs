//! What every file must keep to.

use super::files::SourceFile;

/// Lines of a file, its tests not counted.
const FILE_LINES_MAX: usize = 300;
/// Lines of a function, from its name to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Lines before a change that lasts in which its failpoint is.
const FAILPOINT_LINES: usize = 3;
/// Ends a part of a transaction, and puts nothing on the disk.
const INNER_COMMIT: &str = "savepoint.commit()";

/// Where JSON may be: on the wire, in the body of a reward server, and in what a model file says about itself.
const JSON_PLACES: [&str; 5] = [
    "daemon/src/http/wire",
    "policy/src/byte_pair",
    "policy/src/chat_template",
    "policy/src/checkpoint/safetensors",
    "reward/src/sources/remote",
];

pub(super) fn no_async_below_daemon(file: &SourceFile) -> Vec<String> {
    if file.path.starts_with("daemon/") {
        return Vec::new();
    }
    let words = ["async", "await", "tokio", "futures"];
    file.faults("async code below daemon: use an owner thread and a bounded channel", |line| {
        words.iter().any(|word| has_word(line, word))
    })
}

pub(super) fn json_in_its_place(file: &SourceFile) -> Vec<String> {
    only_in(file, "serde_json", &JSON_PLACES)
}

pub(super) fn sql_in_its_place(file: &SourceFile) -> Vec<String> {
    only_in(file, "rusqlite", &["ppo/src/rollout_log"])
}

pub(super) fn llama_in_its_place(file: &SourceFile) -> Vec<String> {
    let places = ["policy/src/engine", "policy/src/vocabulary"];
    let mut faults = only_in(file, "llama_cpp_2", &places);
    faults.extend(only_in(file, "llama_cpp_sys_2", &places));
    faults
}

/// The environment is a layer of the configuration; candle alone knows no other switch for its threads. A build script is
/// no part of the program, and cargo speaks to it in no other way.
pub(super) fn environment_in_its_place(file: &SourceFile) -> Vec<String> {
    let is_build_script = file.path.ends_with("/build.rs");
    if is_build_script || is_within(&file.path, "config/src") || is_within(&file.path, "policy/src/threads") {
        return Vec::new();
    }
    file.faults("the environment outside config: make it a knob", |line| {
        ["env::var", "env::set_var", "env::remove_var"].iter().any(|call| line.contains(call))
    })
}

pub(super) fn no_fused_operations(file: &SourceFile) -> Vec<String> {
    let fused =
        ["softmax_last_dim", "sdpa", "rope_i", "rope_thd", "apply_op1_no_bwd", "apply_op2_no_bwd", "apply_op3_no_bwd"];
    let modules = ["candle_nn::rotary_emb", "candle_nn::ops::rms_norm", "candle_nn::ops::layer_norm"];
    file.faults("an operation of candle that records no gradient", |line| {
        fused.iter().any(|word| has_word(line, word)) || modules.iter().any(|path| line.contains(path))
    })
}

/// What lasts is changed beside a failpoint, so that a process can be made to die there.
pub(super) fn failpoint_beside_what_lasts(file: &SourceFile) -> Vec<String> {
    let calls = [".sync_all()", ".sync_data()", "fs::rename(", ".commit()"];
    // SQLite commits these by itself; code has no literals, so they are looked for in the text.
    let statements = ["\"VACUUM", "wal_checkpoint(", "\"COMMIT"];
    let code: Vec<&str> = file.code.lines().collect();
    let lasts = |(n, text): (usize, &str)| {
        calls.iter().any(|call| code[n].contains(call)) && !code[n].contains(INNER_COMMIT)
            || !code[n].trim().is_empty() && statements.iter().any(|statement| text.contains(statement))
    };
    let is_beside =
        |n: usize| code[n.saturating_sub(FAILPOINT_LINES)..=n].iter().any(|line| line.contains("failpoint"));
    let faulty = file.text.lines().enumerate().take(code.len()).filter(|line| lasts(*line) && !is_beside(line.0));
    faulty.map(|(n, _)| format!("{}:{}: no failpoint right before what lasts", file.path, n + 1)).collect()
}

pub(super) fn short_files(file: &SourceFile) -> Vec<String> {
    // Tests come last in a file and are blanked, so the last line of code ends what counts.
    let lines: Vec<&str> = file.code.lines().collect();
    let n_lines = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
    if n_lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {n_lines} lines, expected at most {FILE_LINES_MAX}", file.path)]
}

pub(super) fn short_functions(file: &SourceFile) -> Vec<String> {
    let lines: Vec<&str> = file.code.lines().collect();
    let mut faults = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let n_lines = n_function_lines(&lines[start..]);
        if n_lines > FUNCTION_LINES_MAX {
            faults.push(format!(
                "{}:{}: fn {name} has {n_lines} lines, expected at most {FUNCTION_LINES_MAX}",
                file.path,
                start + 1
            ));
        }
    }
    faults
}

/// Lines of the function that starts the text, to the brace at its own depth; a bare declaration has none.
fn n_function_lines(lines: &[&str]) -> usize {
    let ends = |line: &&str| line.trim_end().ends_with(['{', ';', '}']);
    let opens = lines.iter().find(|line| ends(line)).is_some_and(|line| line.trim_end().ends_with('{'));
    let indent = lines[0].len() - lines[0].trim_start().len();
    let closing = format!("{}}}", " ".repeat(indent));
    let closes = lines.iter().position(|line| line.trim_end() == closing);
    closes.filter(|_| opens).map_or(0, |end| end + 1)
}

pub(super) fn opens_with_essay(file: &SourceFile) -> Vec<String> {
    // Unit tests that moved out of their file are told by its essay what they are about.
    if file.text.starts_with("//! ") || file.path.contains("/tests/") || file.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    vec![format!("{}:1: expected a line of `//!` that says what the file holds", file.path)]
}

pub(super) fn no_unwrap(file: &SourceFile) -> Vec<String> {
    file.faults("unwrap: use `?`, or `expect` with the reason why it cannot fail", |line| line.contains(".unwrap()"))
}

pub(super) fn nothing_unfinished(file: &SourceFile) -> Vec<String> {
    let mut faults = file
        .faults("unfinished", |line| ["todo!", "unimplemented!"].iter().any(|macro_name| line.contains(macro_name)));
    // Marks stand in comments, which `code` does not have; built here, or the rule would find itself.
    let marks = [["FIX", "ME"].concat(), ["XX", "X"].concat(), ["HA", "CK"].concat(), ["TO", "DO"].concat()];
    for (n, line) in (1..).zip(file.text.lines()) {
        if marks.iter().any(|mark| has_word(line, mark)) {
            faults.push(format!("{}:{n}: a mark of unfinished work; open an issue instead", file.path));
        }
    }
    faults
}

fn only_in(file: &SourceFile, word: &str, places: &[&str]) -> Vec<String> {
    if places.iter().any(|place| is_within(&file.path, place)) {
        return Vec::new();
    }
    file.faults(&format!("{word} outside {}", places.join(", ")), |line| has_word(line, word))
}

/// `a/b.rs` and `a/b/c.rs` are within `a/b`, `a/bc.rs` is not.
fn is_within(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_declaration = before.split_whitespace().all(|word| {
        word.starts_with("pub")
            || word.starts_with("extern")
            || ["const", "async", "unsafe", "in", "\"C\""].contains(&word)
    });
    let name = after.split(['(', '<']).next()?;
    (is_declaration && !name.is_empty()).then_some(name)
}
