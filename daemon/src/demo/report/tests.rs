use std::collections::BTreeMap;

use super::render;
use crate::demo::{
    evaluation::Level,
    story::{SideBySide, Station, Story},
    traffic::Seen,
    world::Kind,
};

fn story(n_versions: u64) -> Story {
    let level = Level { mean: 0.5, error: 0.02 };
    let station = |version: u64| Station {
        version,
        seconds: version as f64,
        gold: version.is_multiple_of(2).then_some(level),
        numbers: BTreeMap::from([("objective/kl".to_owned(), version as f64)]),
    };
    Story {
        seed: 1,
        stations: (0..=n_versions).map(station).collect(),
        gold: (level, level),
        win_rate: (0.8, 0.7, 0.9),
        promoted: n_versions,
        seen: Seen { answered: 3, gap_ms: vec![(1.0, 2.0), (2.0, 9.0)], ..Seen::default() },
        pretraining_nll: (1.0, 1.1),
        rm_accuracy: (0.75, 100),
        n_held_out: 1,
        answers: vec![SideBySide {
            kind: Kind::Fact,
            instruction: "<script>alert(1)</script>".to_owned(),
            before: (String::new(), 0.0),
            after: ("fine & good".to_owned(), 1.0),
        }],
        seconds: 12.0,
    }
}

#[test]
fn the_report_needs_nothing_from_outside_and_quotes_what_models_write() {
    let page = render(&story(3));
    for outside in ["http:", "https:", "src=", "<link", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "the page refers to {outside}");
    }
    assert!(page.contains("fine &amp; good") && page.contains("&lt;script&gt;") && page.contains("(nothing)"));
    assert_eq!(page.matches("<svg").count(), 6);
    assert!(page.contains("<td>fact</td><td>1</td><td>0.00</td><td>1.00</td>"));
}

#[test]
fn a_run_without_a_version_still_has_a_report_a_table_and_a_summary() {
    let story = story(0);
    assert!(render(&story).ends_with("</html>"));
    assert!(story.table().contains("0.500"));
    let json: serde_json::Value = serde_json::from_str(&story.json()).expect("the summary is JSON");
    for key in [
        "gold_first",
        "gold_last",
        "win_rate",
        "win_rate_low",
        "win_rate_high",
        "versions_promoted",
        "requests",
        "failed_requests",
        "kl",
        "pretraining_nll_first",
        "pretraining_nll_last",
        "rm_accuracy",
        "seconds",
    ] {
        assert!(json[key].is_number(), "{key}");
    }
}
