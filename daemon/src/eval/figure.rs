//! `shapes.svg`: six charts in one file that needs nothing but a viewer.
//!
//! Lines are means over seeds; the band reaches to the lowest and the highest seed.

use std::fmt::Write;

use super::{
    arm::{Arm, KL_COEFS, PLAIN, PTX, Point, UNLEASHED, swept},
    measure::mean,
    outcome::SeedOutcome,
    verdict::Verdict,
};
use crate::demo::report::{BLUE, Chart, GREEN, HEIGHT, ORANGE, Series, WIDTH, escape};

const COLUMNS: usize = 2;
/// Around each chart.
const GAP: f64 = 16.0;
/// Room above a chart for its title and note.
const HEAD: f64 = 52.0;
/// Rounds whose mean is one point of a curve: a round's own mean is noisy.
const SMOOTHED: usize = 8;

const STYLE: &str = "text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif}\
.grid{stroke:#e9ecf2}.tick,.legend{font-size:11px;fill:#667085}\
.title{font-size:15px;font-weight:600;fill:#1d2433}.note{font-size:12px;fill:#667085}";

/// The file.
pub(super) fn render(seeds: &[SeedOutcome], verdicts: &[Verdict]) -> String {
    let charts = charts(seeds);
    let (cell_width, cell_height) = (WIDTH + GAP, HEIGHT + HEAD + GAP);
    let n_rows = charts.len().div_ceil(COLUMNS) as f64;
    let (width, height) = (COLUMNS as f64 * cell_width + GAP, n_rows * cell_height + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\"><style>{STYLE}</style><rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>"
    );
    for (i, (chart, verdict)) in charts.iter().zip(verdicts).enumerate() {
        let x = GAP + (i % COLUMNS) as f64 * cell_width;
        let y = GAP + (i / COLUMNS) as f64 * cell_height;
        let said = if verdict.held { "held" } else { "did not hold" };
        let _ = write!(
            svg,
            "<text class=\"title\" x=\"{x}\" y=\"{}\">{}. {}: {said}</text><text class=\"note\" x=\"{x}\" y=\"{}\">{}</text><svg x=\"{x}\" y=\"{}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">{}</svg>",
            y + 16.0,
            i + 1,
            escape(verdict.shape),
            y + 36.0,
            escape(&chart.note),
            y + HEAD,
            chart.panel()
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// In the order of the verdicts.
fn charts(seeds: &[SeedOutcome]) -> Vec<Chart> {
    vec![accuracy(seeds), beats_sft(seeds), over_optimisation(seeds), inverted_u(seeds), tax(seeds), preferred(seeds)]
}

fn chart(note: &str, x_label: &'static str, series: Vec<Series>) -> Chart {
    Chart { title: "", note: note.to_owned(), x_label, series, marks: Vec::new(), include: None, x_names: Vec::new() }
}

/// A line through named positions.
fn named(
    name: &'static str,
    color: &'static str,
    seeds: &[SeedOutcome],
    of: &[&dyn Fn(&SeedOutcome) -> f64],
) -> Series {
    let (mut points, mut band) = (Vec::new(), Vec::new());
    for (x, of) in of.iter().enumerate() {
        let (middle, spread) = spread(seeds.iter().map(of));
        points.push((x as f64, middle));
        band.push(spread);
    }
    Series { name, color, points, band }
}

/// The middle of the lowest and the highest, and half their distance; for two seeds the middle is the mean.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    ((low + high) / 2.0, (high - low) / 2.0)
}

fn accuracy(seeds: &[SeedOutcome]) -> Chart {
    let judge = |i: usize| move |s: &SeedOutcome| s.judges[i].accuracy;
    let ceiling = |s: &SeedOutcome| s.ceiling;
    let names = seeds.first().map(|s| s.judges.iter().map(|j| j.n_prompts.to_string()).collect());
    Chart {
        x_names: names.unwrap_or_default(),
        ..chart(
            "Share of held-out pairs in the labelers' order; above it what labels so noisy allow.",
            "ranked prompts in training",
            vec![
                named("reward model", BLUE, seeds, &[&judge(0), &judge(1), &judge(2)]),
                named("ceiling", ORANGE, seeds, &[&ceiling, &ceiling, &ceiling]),
            ],
        )
    }
}

fn beats_sft(seeds: &[SeedOutcome]) -> Chart {
    chart(
        "Gold of the rollouts of each round, β 0.05, strong reward model; 2.5 is perfect.",
        "round",
        vec![curve("gold", GREEN, seeds, PLAIN, |_| None, |point| point.gold)],
    )
}

fn over_optimisation(seeds: &[SeedOutcome]) -> Chart {
    let root_kl = |point: &Point| Some(point.kl.max(0.0).sqrt());
    chart(
        "Weak reward model, β 0: the score that PPO sees, and gold, which it does not.",
        "√KL from the supervised policy",
        vec![
            curve("score", BLUE, seeds, UNLEASHED, root_kl, |point| point.score),
            curve("gold", GREEN, seeds, UNLEASHED, root_kl, |point| point.gold),
        ],
    )
}

/// A line through the rounds of an arm: `y` over `x`, or over the number of the round where `x` gives none.
fn curve(
    name: &'static str,
    color: &'static str,
    seeds: &[SeedOutcome],
    arm: Arm,
    x: impl Fn(&Point) -> Option<f64>,
    y: impl Fn(&Point) -> f64,
) -> Series {
    let curves: Vec<&[Point]> = seeds.iter().map(|seed| seed.of(arm).curve.as_slice()).collect();
    let n_rounds = curves.iter().map(|curve| curve.len()).min().unwrap_or(0);
    let (mut points, mut band) = (Vec::new(), Vec::new());
    for first in (0..n_rounds).step_by(SMOOTHED) {
        let rounds = first..(first + SMOOTHED).min(n_rounds);
        let middle_round = (rounds.start + rounds.end) as f64 / 2.0;
        let smoothed = |of: &dyn Fn(&Point) -> f64| -> Vec<f64> {
            curves.iter().map(|curve| mean(&curve[rounds.clone()].iter().map(of).collect::<Vec<_>>())).collect()
        };
        let (middle, spread) = spread(smoothed(&y).into_iter());
        points.push((mean(&smoothed(&|point| x(point).unwrap_or(middle_round))), middle));
        band.push(spread);
    }
    Series { name, color, points, band }
}

fn inverted_u(seeds: &[SeedOutcome]) -> Chart {
    let at = KL_COEFS.map(|kl_coef| move |s: &SeedOutcome| s.of(swept(kl_coef)).measured.gold());
    Chart {
        x_names: KL_COEFS.map(|kl_coef| kl_coef.to_string()).into(),
        ..chart(
            "Gold on held-out prompts after the last round, middling reward model.",
            "β",
            vec![named("gold", GREEN, seeds, &[&at[0], &at[1], &at[2], &at[3], &at[4]])],
        )
    }
}

fn tax(seeds: &[SeedOutcome]) -> Chart {
    // Without SFT that had no mix: its loss is so high that the others would look equal.
    let names = ["base", "SFT, 10 % mix", "PPO", "PPO-ptx"];
    Chart {
        x_names: names.map(str::to_owned).into(),
        ..chart(
            "Loss on held-out pretraining text, nats a token; lower is better.",
            "",
            vec![named(
                "loss",
                ORANGE,
                seeds,
                &[&|s| s.base.nll, &|s| s.sft.nll, &|s| s.of(PLAIN).measured.nll, &|s| s.of(PTX).measured.nll],
            )],
        )
    }
}

fn preferred(seeds: &[SeedOutcome]) -> Chart {
    let names = ["wide base", "wide SFT", "small SFT"];
    Chart {
        x_names: names.map(str::to_owned).into(),
        include: Some(0.5),
        ..chart(
            "Win rate of the small PPO policy on held-out prompts; 0.5 is a toss-up.",
            "against",
            vec![named(
                "win rate",
                GREEN,
                seeds,
                &[
                    &|s| s.of(PLAIN).measured.against(&s.large_base).rate,
                    &|s| s.of(PLAIN).measured.against(&s.large_sft).rate,
                    &|s| s.of(PLAIN).win.rate,
                ],
            )],
        )
    }
}
