//! The guard's own test: each rule sees a fault where there is one, and only there.

use super::{files::SourceFile, manifests, pitfalls, rules};

type Rule = fn(&SourceFile) -> Vec<String>;

#[track_caller]
fn check_rule(rule: Rule, path: &str, text: &str, n_faults: usize) {
    let faults = rule(&SourceFile::new(path, text));
    assert_eq!(faults.len(), n_faults, "{path}: {text:?} gave {faults:?}");
}

#[test]
fn async_is_seen_below_the_daemon() {
    let rule = rules::no_async_below_daemon;
    check_rule(rule, "ppo/src/a.rs", "async fn f() {}", 1);
    check_rule(rule, "policy/src/a.rs", "fn f() {\n    g().await\n}", 1);
    check_rule(rule, "reward/src/a.rs", "use tokio::sync;", 1);
    check_rule(rule, "daemon/src/a.rs", "async fn f() {}", 0);
    check_rule(rule, "ppo/src/a.rs", "// async\nlet asynchronous = \"async\";", 0);
}

#[test]
fn names_are_seen_outside_their_places() {
    check_rule(rules::json_in_its_place, "daemon/src/http/chat.rs", "use serde_json::Value;", 1);
    check_rule(rules::json_in_its_place, "daemon/src/http/wire.rs", "use serde_json::Value;", 0);
    check_rule(rules::json_in_its_place, "daemon/src/http/wire/chat.rs", "use serde_json::Value;", 0);
    check_rule(rules::json_in_its_place, "daemon/src/http/wireless.rs", "use serde_json::Value;", 1);
    check_rule(rules::sql_in_its_place, "ppo/src/learner.rs", "let c = rusqlite::Connection::open(p)?;", 1);
    check_rule(rules::sql_in_its_place, "ppo/src/rollout_log/read.rs", "use rusqlite::params;", 0);
    check_rule(rules::llama_in_its_place, "policy/src/sft.rs", "use llama_cpp_2::model;", 1);
    check_rule(rules::llama_in_its_place, "policy/src/engine.rs", "use llama_cpp_2::model;", 0);
    check_rule(rules::llama_in_its_place, "daemon/src/app.rs", "unsafe { llama_cpp_sys_2::free() }", 1);
}

#[test]
fn the_environment_is_seen_outside_config() {
    let rule = rules::environment_in_its_place;
    check_rule(rule, "ppo/src/a.rs", "let home = std::env::var_os(\"HOME\");", 1);
    check_rule(rule, "daemon/src/a.rs", "for (name, value) in env::vars() {}", 1);
    check_rule(rule, "config/src/lib.rs", "let all = std::env::vars_os();", 0);
    check_rule(rule, "ppo/src/a.rs", "let folder = env!(\"CARGO_MANIFEST_DIR\");", 0);
}

#[test]
fn operations_without_gradient_are_seen() {
    let rule = rules::no_fused_operations;
    check_rule(rule, "policy/src/a.rs", "let p = candle_nn::ops::softmax_last_dim(&x)?;", 1);
    check_rule(rule, "policy/src/a.rs", "use candle_nn::ops::rms_norm;", 1);
    check_rule(rule, "policy/src/a.rs", "use candle_nn::rotary_emb::rope;", 1);
    check_rule(rule, "policy/src/a.rs", "let y = x.apply_op1_no_bwd(&op)?;", 1);
    check_rule(rule, "policy/src/a.rs", "let y = rms_norm(&x)?; // not softmax_last_dim", 0);
}

#[test]
fn what_lasts_without_a_failpoint_is_seen() {
    let rule = rules::failpoint_beside_what_lasts;
    for change in ["file.sync_all()?;", "file.sync_data()?;", "std::fs::rename(a, b)?;", "transaction.commit()?;"] {
        check_rule(rule, "ppo/src/a.rs", &format!("fn f() {{\n    {change}\n}}"), 1);
        check_rule(rule, "ppo/src/a.rs", &format!("failpoint(\"log.commit\")?;\n{change}"), 0);
        check_rule(rule, "ppo/src/a.rs", &format!("// failpoint\n{change}"), 1);
        check_rule(rule, "ppo/src/a.rs", &format!("failpoint::reached(a)?;\n{}{change}", "g();\n".repeat(3)), 1);
        check_rule(rule, "ppo/src/a/tests.rs", change, 0);
    }
    check_rule(rule, "ppo/src/a.rs", "connection.execute_batch(\"VACUUM\")?;", 1);
    check_rule(rule, "ppo/src/a.rs", "connection.query_row(\"PRAGMA wal_checkpoint(TRUNCATE)\", [], f)?;", 1);
    check_rule(rule, "ppo/src/a.rs", "savepoint.commit()?; // VACUUM", 0);
}

#[test]
fn length_is_seen() {
    let body = |n: usize| "    work();\n".repeat(n);
    let function = |n: usize| format!("pub(crate) fn f() {{\n{}}}\n", body(n - 2));
    check_rule(rules::short_functions, "ppo/src/a.rs", &function(71), 1);
    check_rule(rules::short_functions, "ppo/src/a.rs", &function(70), 0);
    let method = format!("impl A {{\n    const fn f(\n        &self,\n    ) {{\n{}    }}\n}}\n", body(67));
    check_rule(rules::short_functions, "ppo/src/a.rs", &method, 1);
    let declaration = format!("trait A {{\n    fn f();\n}}\n{}", "struct B;\n".repeat(80));
    check_rule(rules::short_functions, "ppo/src/a.rs", &declaration, 0);
    check_rule(rules::short_functions, "ppo/src/tests.rs", &function(71), 0);
    check_rule(rules::short_files, "ppo/src/a.rs", &"struct A;\n".repeat(301), 1);
    check_rule(rules::short_files, "ppo/src/a.rs", &"struct A;\n".repeat(300), 0);
    check_rule(rules::short_files, "tests/a.rs", &"struct A;\n".repeat(301), 0);
    let tests = format!("struct A;\n#[cfg(test)]\nmod tests {{\n{}}}\n", body(400));
    check_rule(rules::short_files, "ppo/src/a.rs", &tests, 0);
}

#[test]
fn hollow_code_is_seen() {
    check_rule(rules::opens_with_essay, "ppo/src/a.rs", "use std::fmt;", 1);
    check_rule(rules::opens_with_essay, "ppo/src/a.rs", "//! What it is.\n", 0);
    check_rule(rules::no_unwrap, "ppo/src/a.rs", "let a = b\n    .unwrap();", 1);
    check_rule(rules::no_unwrap, "ppo/src/a.rs", "let a = b.unwrap_or(\".unwrap()\");", 0);
    check_rule(rules::nothing_unfinished, "ppo/src/a.rs", "fn f() {\n    todo!()\n}", 1);
    check_rule(rules::nothing_unfinished, "ppo/src/a.rs", &format!("// {}: later", ["FIX", "ME"].concat()), 1);
    check_rule(rules::nothing_unfinished, "tests/a.rs", &format!("// {} later", ["TO", "DO"].concat()), 1);
    check_rule(rules::nothing_unfinished, "ppo/src/a.rs", "// nothing left to do", 0);
}

#[test]
fn tests_comments_and_literals_are_not_code() {
    let rule = rules::no_unwrap;
    let module = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {\n        a.unwrap();\n    }\n}\n";
    check_rule(rule, "ppo/src/a.rs", module, 0);
    check_rule(rule, "ppo/src/a.rs", &format!("{module}fn h() {{\n    a.unwrap();\n}}\n"), 1);
    check_rule(rule, "ppo/src/a.rs", "#[cfg(test)]\nmod tests;\nfn f() {\n    a.unwrap();\n}\n", 1);
    check_rule(rule, "ppo/src/a.rs", "/* a.unwrap()\n a.unwrap() */ b()", 0);
    check_rule(rule, "ppo/src/a.rs", "let a = r#\"x\" .unwrap() \"#; b.unwrap()", 1);
    check_rule(rule, "ppo/src/a.rs", "let a = \"\\\" .unwrap()\"; fn f<'a>(b: &'a str, c: char) {}", 0);
    check_rule(rule, "ppo/src/a.rs", "let quote = '\"'; b.unwrap(); let c = '\\'';", 1);
    check_rule(rule, "ppo/src/foo/tests.rs", "a.unwrap();", 0);
    check_rule(rule, "ppo/src/test_world.rs", "a.unwrap();", 0);
    check_rule(rule, "ppo/src/testing.rs", "a.unwrap();", 1);
}

#[test]
fn backward_arrows_are_seen() {
    let uses = |name: &str, text: &str| manifests::arrow_faults(name, text).len();
    assert_eq!(uses("reward", "[dependencies]\npolicy.workspace = true\nppo.workspace = true\n"), 1);
    assert_eq!(uses("policy", "[dev-dependencies]\ndaemon = { path = \"../daemon\" }\n"), 1);
    assert_eq!(uses("policy", "[target.'cfg(unix)'.dependencies]\nreward.workspace = true\n"), 1);
    assert_eq!(uses("config", "[dependencies.policy]\nworkspace = true\n"), 1);
    assert_eq!(uses("ppo", "[dependencies]\nreward.workspace = true\n# daemon\n[features]\ndaemon = []\n"), 0);
    assert_eq!(manifests::place_faults("reward", "[dependencies]\nrusqlite.workspace = true\n").len(), 1);
    assert_eq!(manifests::place_faults("ppo", "[dependencies]\nrusqlite.workspace = true\n").len(), 0);
}

#[test]
fn silent_dependencies_and_strangers_are_seen() {
    let manifest =
        "[workspace.dependencies]\n# Errors.\nthiserror = \"2\"\n\nrand = \"0.9\"\n\n[profile.dev]\nopt-level = 1\n";
    assert_eq!(manifests::reason_faults(manifest), ["Cargo.toml: no comment says what this buys: rand = \"0.9\""]);
    let paths = ["ppo/src/lib.rs", "README.md", "utils/mod.rs", "notes.txt"];
    assert_eq!(manifests::top_level_faults(paths.into_iter()).len(), 2);
    assert_eq!(manifests::readme_faults("fuzz/ config/ policy/ reward/ ppo/ daemon/").len(), 1);
}

#[test]
fn pitfalls_without_a_test_are_seen() {
    let source =
        |path: &str| (path == "a/b.rs").then(|| "#[test]\n#[cfg(unix)]\nfn kept() {}\nfn helper() {}".to_owned());
    let faults = |last: &str| {
        let rows: String = (1..pitfalls::N_PITFALLS).map(|n| format!("| {n} | x | golden 01 |\n")).collect();
        let table =
            format!("## Pitfalls of learning from feedback\n| number | a | b |\n{rows}{last}\n\n## Next\n`c/d.rs::e`");
        pitfalls::faults(&table, source, &["01".to_owned()]).len()
    };
    assert_eq!(faults("| 45 | x | `a/b.rs::kept` |"), 0);
    for wrong in
        ["", "| 45 | x | trust me |", "| 46 | x | `a/b.rs::kept` |", "| 45 | x | golden 01, 77; `a/b.rs::kept` |"]
    {
        assert!(faults(wrong) > 0, "{wrong}");
    }
    for name in ["a/b.rs::gone", "a/b.rs::helper", "a/c.rs::kept"] {
        assert_eq!(faults(&format!("| 45 | x | `{name}` |")), 1, "{name}");
    }
}
