//! The page: numbers, charts, and answers side by side.

use std::fmt::Write;

use super::{
    chart::{Chart, Series},
    escape,
};
use crate::{
    demo::story::{SideBySide, Station, Story},
    http::wire::demo::DemoKind,
};

/// Colors of lines.
pub(crate) const BLUE: &str = "#3b6fd4";
/// Colors of lines.
pub(crate) const GREEN: &str = "#2f9e6e";
/// Colors of lines.
pub(crate) const ORANGE: &str = "#d9822b";
/// Answers shown.
const SHOWN: usize = 14;
/// Points of the latency chart.
const BUCKETS: usize = 50;

const STYLE: &str = "
:root{color-scheme:light}
body{margin:0;background:#f6f7f9;color:#1d2433;font:16px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 20px 64px}
h1{font-size:30px;margin:0 0 6px;letter-spacing:-.02em}h2{font-size:20px;margin:44px 0 12px}
p{margin:0 0 10px;color:#48526a;max-width:72ch}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:14px;margin:26px 0}
.card,figure,table{background:#fff;border:1px solid #e3e7ee;border-radius:12px}
.card{padding:16px 18px}.card b{display:block;font-size:25px;letter-spacing:-.02em}.card span{color:#667085;font-size:14px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:16px}
figure{margin:0;padding:16px 16px 8px}figcaption b{display:block}figcaption span{color:#667085;font-size:13.5px}
svg{width:100%;height:auto;display:block;margin-top:6px}
.grid{stroke:#e9ecf2}.mark{stroke:#98a2b3;stroke-dasharray:2 4;stroke-width:.8}
.tick,.legend{font-size:11px;fill:#667085}
table{width:100%;border-collapse:collapse;overflow:hidden;font-size:15px}
th,td{padding:11px 14px;text-align:left;vertical-align:top;border-top:1px solid #eef1f5}th{background:#fafbfc;border-top:0;color:#667085;font-weight:600}
td:first-child{width:34%;color:#48526a}
.g{display:inline-block;min-width:40px;padding:0 6px;margin-right:8px;border-radius:7px;font-size:12.5px;text-align:center;background:#eef1f5;color:#48526a}
.g.good{background:#dff3e9;color:#1c7a52}.g.bad{background:#fbe6e4;color:#b3382c}
@media(max-width:520px){.charts{grid-template-columns:1fr}}
";

/// The whole page.
pub(in crate::demo) fn render(story: &Story) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>honed: a model that got better while it served</title><style>{STYLE}</style></head><body><main>"
    );
    let _ = write!(
        page,
        "<h1>A model that got better while it served</h1><p>{} requests went to a small language model over HTTP. A reward model judged the answers, PPO learnt from them, and {} improved versions took over one after the other; {} requests failed. All scores below are of users and prompts that no part of it was trained on.</p>",
        story.seen.answered + story.seen.failed,
        story.promoted,
        story.seen.failed
    );
    cards(&mut page, story);
    page.push_str("<div class=\"charts\">");
    for chart in charts(story) {
        page.push_str(&chart.render());
    }
    page.push_str("</div>");
    kinds(&mut page, story);
    answers(&mut page, story);
    let _ = write!(
        page,
        "<h2>How to read this</h2><p>The gold score is programmed: helpful (what was asked, the right count and order), honest (nothing that the table of facts contradicts), harmless (no rude word), and ended in time. 1 is perfect, 0 is worth as much as silence. The learner never sees it; it sees a reward model that was trained on noisy rankings. Answers are drawn at temperature 1 with one fixed seed for each prompt. Seed {}, {:.0} seconds, honed {}.</p></main></body></html>",
        story.seed,
        story.seconds,
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn cards(page: &mut String, story: &Story) {
    let (rate, low, high) = story.win_rate;
    let cards = [
        (
            format!("{:.2} → {:.2}", story.gold.0.mean, story.gold.1.mean),
            "gold score, first and last version".to_owned(),
        ),
        (
            format!("{:.0} %", 100.0 * rate),
            format!("win rate against sft (95 %: {:.0} to {:.0} %)", 100.0 * low, 100.0 * high),
        ),
        (
            story.promoted.to_string(),
            format!("versions in {:.0} s, {} failed requests", story.seconds, story.seen.failed),
        ),
        (format!("{:.1}", story.last_number("objective/kl")), "nats an answer from sft (KL)".to_owned()),
        (
            format!("{:.2} → {:.2}", story.pretraining_nll.0, story.pretraining_nll.1),
            "pretraining loss, nats a token".to_owned(),
        ),
        (
            format!("{:.0} %", 100.0 * story.rm_accuracy.0),
            "of pairs of fresh answers put in the right order by the reward model".to_owned(),
        ),
    ];
    page.push_str("<div class=\"cards\">");
    for (value, name) in cards {
        let _ = write!(page, "<div class=\"card\"><b>{}</b><span>{}</span></div>", escape(&value), escape(&name));
    }
    page.push_str("</div>");
}

fn charts(story: &Story) -> Vec<Chart> {
    let by_version = |name: &str| {
        let points = story.stations.iter().filter_map(|s| s.numbers.get(name).map(|value| (s.version as f64, *value)));
        points.collect::<Vec<_>>()
    };
    let plain = |title, note: &str, name: &'static str, number: &str, color, include| Chart {
        title,
        note: note.to_owned(),
        x_label: "version",
        series: vec![Series::line(name, color, by_version(number))],
        marks: Vec::new(),
        include,
        x_names: Vec::new(),
    };
    vec![
        gold_chart(&story.stations),
        plain(
            "Reward",
            "Mean score of the reward model over the round that made the version; version 0 has mean 0 and deviation 1.",
            "score",
            "objective/scores",
            BLUE,
            Some(0.0),
        ),
        plain(
            "KL to the supervised policy",
            "How far the policy has moved, in nats an answer: what the KL penalty holds back.",
            "KL",
            "objective/kl",
            ORANGE,
            Some(0.0),
        ),
        plain(
            "Length",
            "Mean tokens of an answer: a policy that is paid for length grows longer; this one should not.",
            "tokens",
            "completions/mean_length",
            BLUE,
            Some(0.0),
        ),
        latency_chart(story),
        plain(
            "Entropy",
            "Nats a token: how much choice the policy keeps.",
            "entropy",
            "objective/entropy",
            GREEN,
            Some(0.0),
        ),
    ]
}

fn gold_chart(stations: &[Station]) -> Chart {
    let measured: Vec<_> = stations.iter().filter_map(|s| s.gold.map(|gold| (s.version as f64, gold))).collect();
    Chart {
        title: "Gold score on held-out prompts",
        note: "Mean with its standard error, for each version that was live when it was measured.".to_owned(),
        x_label: "version",
        series: vec![Series {
            name: "gold",
            color: GREEN,
            points: measured.iter().map(|(version, gold)| (*version, gold.mean)).collect(),
            band: measured.iter().map(|(_, gold)| gold.error).collect(),
        }],
        marks: Vec::new(),
        include: Some(1.0),
        x_names: Vec::new(),
    }
}

fn latency_chart(story: &Story) -> Chart {
    let gaps = &story.seen.gap_ms;
    let end = gaps.iter().map(|gap| gap.0).fold(1.0, f64::max);
    let width = end / BUCKETS as f64;
    let mut buckets: Vec<Vec<(f64, f64)>> = vec![Vec::new(); BUCKETS];
    for gap in gaps {
        buckets[((gap.0 / width) as usize).min(BUCKETS - 1)].push(*gap);
    }
    let line = |q| {
        let filled = buckets.iter().enumerate().filter(|(_, bucket)| !bucket.is_empty());
        filled.map(|(i, bucket)| ((i as f64 + 0.5) * width, Story::quantile(bucket, q))).collect::<Vec<_>>()
    };
    Chart {
        title: "Milliseconds between tokens",
        note: "As clients saw them; dashed lines are swaps of the live version.".to_owned(),
        x_label: "seconds",
        series: vec![Series::line("p50", BLUE, line(0.5)), Series::line("p99", ORANGE, line(0.99))],
        marks: story.stations.iter().skip(1).map(|station| station.seconds).collect(),
        include: Some(0.0),
        x_names: Vec::new(),
    }
}

fn kinds(page: &mut String, story: &Story) {
    page.push_str("<h2>By sort of prompt</h2><table><tr><th>Sort</th><th>Prompts</th><th>Version 0 (sft)</th><th>Last version</th></tr>");
    for DemoKind { kind, prompts, gold_first, gold_last } in story.by_kind() {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{prompts}</td><td>{gold_first:.2}</td><td>{gold_last:.2}</td></tr>",
            escape(&kind)
        );
    }
    page.push_str("</table>");
}

fn answers(page: &mut String, story: &Story) {
    page.push_str("<h2>Before and after</h2><table><tr><th>Held-out prompt</th><th>Version 0 (sft)</th><th>Last version</th></tr>");
    // An even walk over all prompts, not the best ones.
    let step = (story.answers.len() / SHOWN).max(1);
    for SideBySide { instruction, before, after, .. } in story.answers.iter().step_by(step).take(SHOWN) {
        let _ =
            write!(page, "<tr><td>{}</td><td>{}</td><td>{}</td></tr>", escape(instruction), cell(before), cell(after));
    }
    page.push_str("</table>");
}

fn cell((answer, gold): &(String, f64)) -> String {
    let class = if *gold > 0.95 {
        "g good"
    } else if *gold < 0.3 {
        "g bad"
    } else {
        "g"
    };
    let text = if answer.trim().is_empty() { "(nothing)" } else { answer };
    format!("<span class=\"{class}\">{gold:.2}</span>{}", escape(text))
}
