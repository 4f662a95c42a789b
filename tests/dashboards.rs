//! The dashboard and the alerts speak of metrics that exist: a renamed metric would leave a panel empty and an alert silent.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::TestDaemon;

const DASHBOARD: &str = include_str!("../daemon/dashboards/grafana.json");
const ALERTS: &str = include_str!("../daemon/dashboards/alerts.yml");
const ALERTS_TEST: &str = include_str!("../daemon/dashboards/alerts_test.yml");

/// Every `honed_…` of a text, without what a histogram appends.
fn names(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("honed_"));
    let family = |word: &'static str, name| str::strip_suffix(name, word);
    words
        .map(|name| ["_bucket", "_sum", "_count"].into_iter().find_map(|end| family(end, name)).unwrap_or(name))
        .collect()
}

/// Names of what an update measures, from the places where `ppo` writes them: they appear after the first update.
fn learner_names() -> BTreeSet<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../ppo/src");
    let sources = ["stats/round.rs", "gate.rs", "gate/verdict.rs"];
    let text: String = sources.iter().filter_map(|name| std::fs::read_to_string(folder.join(name)).ok()).collect();
    let literals = text.split('"').filter(|literal| literal.contains('/') && !literal.contains(' '));
    literals.map(|name| format!("honed_{}", name.replace('/', "_"))).collect()
}

#[test]
fn dashboard_and_alerts_speak_of_metrics_that_exist() {
    let daemon = TestDaemon::builder()
        .set("ppo.enabled=true")
        .set("reward.source=feedback")
        .set("reward.feedback_fallback=drop")
        .start();
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2})).ok();
    let metrics = daemon.get("/metrics").text();
    let shown: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let learned = learner_names();
    for (file, text) in [("grafana.json", DASHBOARD), ("alerts.yml", ALERTS)] {
        let spoken = names(text);
        assert!(spoken.len() > 10, "{file}: {spoken:?}");
        for name in spoken {
            assert!(shown.contains(name) || learned.contains(name), "{file} speaks of {name}, which is no metric");
        }
    }
    // Labels that are known beforehand are there before the first event, or a rate over them would miss it.
    for line in [
        "honed_errors_total{code=\"internal_error\"} 0",
        "honed_request_success_total{finished_reason=\"stop\"} 0",
        "honed_rollouts_dropped_total{reason=\"stale\"} 0",
        "honed_guard_trips_total{action=\"skip_round\",guard=\"skip_kl\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn panels_are_whole_and_every_alert_is_tested() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "ids are used once");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(
            !targets.is_empty() && targets.iter().all(|t| t["expr"].as_str().is_some_and(|e| e.contains("honed_"))),
            "{panel}"
        );
    }
    let alerts: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let firing = format!("alertname: {alert}\n        exp_alerts:");
        assert!(ALERTS_TEST.contains(&firing), "no test shows {alert} firing");
    }
}
