//! `honed eval shapes` reports what it has measured.
//!
//! Method: a fiftieth of the full sizes, which takes seconds and shows few of the shapes. What must be true of numbers that
//! come from a run is true at this size too: the same seed gives the same numbers and another seed others, and the KL
//! penalty holds the policy back.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::harness::process::binary;

/// One run: its standard output and its JSON lines.
struct Run {
    table: String,
    lines: Vec<Value>,
    chart: String,
}

fn run(folder: &Path, first_seed: u64) -> Run {
    let json = folder.join(format!("{first_seed}.jsonl"));
    let output = Command::new(binary())
        .args(["eval", "shapes", "--seeds", "1", "--share", "0.02", "--first-seed", &first_seed.to_string()])
        .arg("--out")
        .arg(folder)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = std::fs::read_to_string(json).unwrap();
    Run {
        table: String::from_utf8(output.stdout).unwrap(),
        lines: lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        chart: std::fs::read_to_string(folder.join("shapes.svg")).unwrap(),
    }
}

impl Run {
    fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["kind"] == kind).collect()
    }

    /// The policy tuned with the middling (1) or the strong (2) reward model, without pretraining text.
    fn ppo(&self, strength: usize, kl_coef: f64) -> &Value {
        let mut sizes: Vec<_> =
            self.of_kind("reward_model").iter().map(|line| line["reward_prompts"].as_u64()).collect();
        sizes.sort();
        let mut models = self.of_kind("model").into_iter();
        let is_meant = |line: &&Value| {
            let same_judge = line["reward_prompts"].as_u64() == sizes[strength];
            same_judge && line["kl_coef"].as_f64() == Some(kl_coef) && line["ptx"] == false
        };
        models.find(is_meant).unwrap()
    }

    /// The lines without the time that they took.
    fn numbers(&self) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["kind"] != "shape").collect()
    }

    fn table_without_time(&self) -> Vec<&str> {
        self.table.lines().filter(|line| !line.contains("chart: ")).collect()
    }
}

#[test]
fn the_numbers_of_the_shapes_come_from_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (one, again, other) = (run(folder.path(), 1), run(folder.path(), 1), run(folder.path(), 2));
    assert_eq!(one.numbers(), again.numbers());
    assert_eq!(one.table_without_time(), again.table_without_time());
    for kl_coef in [0.0, 0.05, 2.0] {
        let number = |run: &Run, key: &str| run.ppo(1, kl_coef)[key].as_f64().unwrap();
        for key in ["gold", "score", "kl", "pretraining_nll"] {
            assert_ne!(number(&one, key), number(&other, key), "{key} at β {kl_coef}");
        }
    }
    for run in [&one, &other] {
        let kl = |kl_coef: f64| run.ppo(1, kl_coef)["kl"].as_f64().unwrap();
        assert!(kl(0.0) > kl(2.0), "KL {} at β 0, {} at β 2", kl(0.0), kl(2.0));
        // What stands in the table is what was measured.
        let gold = run.ppo(2, 0.05)["gold"].as_f64().unwrap();
        assert!(run.table.contains(&format!("→ {gold:.2}\n")), "{gold} is not in\n{}", run.table);
        assert_eq!(run.of_kind("shape").len(), 6);
        let n_held = run.of_kind("shape").iter().filter(|line| line["held"] == true).count();
        assert!(run.table.contains(&format!("{n_held} of 6 shapes held")));
        assert_eq!(run.chart.matches("class=\"title\"").count(), 6);
        assert!(!run.chart.contains("NaN") && !run.chart.contains("href"));
    }
}
