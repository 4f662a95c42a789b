//! Line charts as inline SVG: no script, no font, no file from outside.

use std::fmt::Write;

use super::escape;

const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 38.0;

/// One line of a chart.
pub(super) struct Series {
    /// What the legend calls it.
    pub(super) name: &'static str,
    /// A CSS color.
    pub(super) color: &'static str,
    /// (x, y), x rising.
    pub(super) points: Vec<(f64, f64)>,
    /// Half the height of the band around each point; empty for none.
    pub(super) band: Vec<f64>,
}

impl Series {
    /// A line without a band.
    pub(super) fn line(name: &'static str, color: &'static str, points: Vec<(f64, f64)>) -> Series {
        Series { name, color, points, band: Vec::new() }
    }

    fn spread(&self, i: usize) -> f64 {
        self.band.get(i).copied().unwrap_or(0.0)
    }
}

/// A chart: title, what it means in one sentence, axes, lines, and vertical marks.
pub(super) struct Chart {
    /// Heading.
    pub(super) title: &'static str,
    /// One sentence under the heading.
    pub(super) note: String,
    /// Under the horizontal axis.
    pub(super) x_label: &'static str,
    /// The lines.
    pub(super) series: Vec<Series>,
    /// Where versions were swapped, on the horizontal axis.
    pub(super) marks: Vec<f64>,
    /// A value that must be in view, such as zero.
    pub(super) include: Option<f64>,
}

impl Chart {
    /// The chart as a `<figure>`.
    pub(super) fn render(&self) -> String {
        let plane = Plane::of(self);
        let mut svg = format!(
            "<figure><figcaption><b>{}</b><span>{}</span></figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(self.title),
            escape(&self.note),
            escape(self.title)
        );
        plane.draw_axes(&mut svg, self.x_label);
        for mark in &self.marks {
            let x = plane.x(*mark);
            let _ = write!(
                svg,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>",
                HEIGHT - BOTTOM
            );
        }
        for series in &self.series {
            plane.draw(&mut svg, series);
        }
        self.draw_legend(&mut svg);
        svg.push_str("</svg></figure>");
        svg
    }

    fn draw_legend(&self, svg: &mut String) {
        if self.series.len() < 2 {
            return;
        }
        let mut x = LEFT + 8.0;
        for series in &self.series {
            let _ = write!(
                svg,
                "<rect x=\"{x:.0}\" y=\"{TOP}\" width=\"12\" height=\"4\" rx=\"2\" fill=\"{}\"/><text x=\"{:.0}\" y=\"{}\" class=\"legend\">{}</text>",
                series.color,
                x + 17.0,
                TOP + 6.0,
                escape(series.name)
            );
            x += 34.0 + 6.6 * series.name.len() as f64;
        }
    }
}

/// The mapping from values to pixels.
struct Plane {
    x: (f64, f64),
    y: (f64, f64),
    step: f64,
}

impl Plane {
    fn of(chart: &Chart) -> Plane {
        let points = || {
            chart
                .series
                .iter()
                .flat_map(|series| series.points.iter().enumerate().map(move |(i, p)| (series.spread(i), p)))
        };
        let xs = points().map(|(_, p)| p.0).chain(chart.marks.iter().copied());
        let lows = points().map(|(spread, p)| p.1 - spread).chain(chart.include);
        let highs = points().map(|(spread, p)| p.1 + spread).chain(chart.include);
        let x = widened(range(xs));
        let (low, high) = widened((range(lows).0, range(highs).1));
        let step = nice_step((high - low) / 5.0);
        // Room on top, so that the legend does not lie on a line.
        Plane { x, y: ((low / step).floor() * step, (high / step).ceil() * step + 0.35 * step), step }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn draw_axes(&self, svg: &mut String, x_label: &str) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut value = self.y.0;
        while value <= self.y.1 + 1e-9 {
            let y = self.y(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 7.0,
                y + 4.0,
                label(value, self.step)
            );
            value += self.step;
        }
        let step = nice_step((self.x.1 - self.x.0) / 8.0);
        let mut value = (self.x.0 / step).ceil() * step;
        while value <= self.x.1 + 1e-9 {
            let x = self.x(value);
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                label(value, step)
            );
            value += step;
        }
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.0}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            bottom + 32.0,
            escape(x_label)
        );
    }

    fn draw(&self, svg: &mut String, series: &Series) {
        if !series.band.is_empty() {
            let edge = |sign: f64| {
                let points = series.points.iter().enumerate();
                points
                    .map(move |(i, p)| format!("{:.1},{:.1}", self.x(p.0), self.y(p.1 + sign * series.spread(i))))
                    .collect::<Vec<_>>()
            };
            let below: Vec<String> = edge(-1.0).into_iter().rev().collect();
            let _ = write!(
                svg,
                "<polygon points=\"{} {}\" fill=\"{}\" opacity=\".13\"/>",
                edge(1.0).join(" "),
                below.join(" "),
                series.color
            );
        }
        let path: Vec<String> =
            series.points.iter().map(|p| format!("{:.1},{:.1}", self.x(p.0), self.y(p.1))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>",
            path.join(" "),
            series.color
        );
        if series.points.len() <= 60 {
            for p in &series.points {
                let _ = write!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"{}\"/>",
                    self.x(p.0),
                    self.y(p.1),
                    series.color
                );
            }
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// A range that can be divided by: not empty, not of zero width.
fn widened((low, high): (f64, f64)) -> (f64, f64) {
    match (low.is_finite() && high.is_finite(), high > low) {
        (true, true) => (low, high),
        (true, false) => (low - 0.5, low + 0.5),
        (false, _) => (0.0, 1.0),
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.max(1e-12).log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= raw * 0.999).unwrap_or(10.0);
    factor * power
}

fn label(value: f64, step: f64) -> String {
    let decimals = if step >= 1.0 { 0 } else { (-step.log10().floor()) as usize };
    let text = format!("{value:.decimals$}");
    if text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_labels_short() {
        assert_eq!(
            [0.013, 0.2, 0.21, 3.0, 70.0].map(nice_step).map(|step| format!("{step:.2}")),
            ["0.02", "0.20", "0.50", "5.00", "100.00"]
        );
        assert_eq!(
            (label(0.30000000000000004, 0.1), label(-0.0, 0.5), label(40.0, 20.0)),
            ("0.3".into(), "0".into(), "40".into())
        );
    }

    #[test]
    fn nothing_a_run_may_lack_breaks_a_chart() {
        for points in [vec![], vec![(1.0, 2.0)], vec![(0.0, 1.0), (1.0, 1.0)], vec![(0.0, f64::NAN)]] {
            let chart = Chart {
                title: "t",
                note: "<n>".into(),
                x_label: "x",
                series: vec![Series::line("s", "red", points)],
                marks: vec![],
                include: None,
            };
            let svg = chart.render();
            assert!(svg.contains("&lt;n&gt;") && svg.ends_with("</figure>"));
            assert!(!svg.contains("inf"), "{svg}");
        }
    }
}
