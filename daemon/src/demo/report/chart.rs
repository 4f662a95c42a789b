//! Line charts as inline SVG: no script, no font, no file from outside.

use std::fmt::Write;

use super::escape;

/// Of a chart, in its own units.
pub(crate) const WIDTH: f64 = 620.0;
/// Of a chart, in its own units.
pub(crate) const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 38.0;

/// One line of a chart.
pub(crate) struct Series {
    /// What the legend calls it.
    pub(crate) name: &'static str,
    /// A CSS color.
    pub(crate) color: &'static str,
    /// (x, y), x rising.
    pub(crate) points: Vec<(f64, f64)>,
    /// Half the height of the band around each point; empty for none.
    pub(crate) band: Vec<f64>,
}

impl Series {
    /// A line without a band.
    pub(crate) fn line(name: &'static str, color: &'static str, points: Vec<(f64, f64)>) -> Series {
        Series { name, color, points, band: Vec::new() }
    }

    fn spread(&self, i: usize) -> f64 {
        self.band.get(i).copied().unwrap_or(0.0)
    }
}

/// A chart: title, what it means in one sentence, axes, lines, and vertical marks.
pub(crate) struct Chart {
    /// Heading.
    pub(crate) title: &'static str,
    /// One sentence under the heading.
    pub(crate) note: String,
    /// Under the horizontal axis.
    pub(crate) x_label: &'static str,
    /// The lines.
    pub(crate) series: Vec<Series>,
    /// Where versions were swapped, on the horizontal axis.
    pub(crate) marks: Vec<f64>,
    /// A value that must be in view, such as zero.
    pub(crate) include: Option<f64>,
    /// Names of the positions 0, 1, 2, … of the horizontal axis; empty: it has numbers.
    pub(crate) x_names: Vec<String>,
}

impl Chart {
    /// The chart as a `<figure>`.
    pub(crate) fn render(&self) -> String {
        format!(
            "<figure><figcaption><b>{}</b><span>{}</span></figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">{}</svg></figure>",
            escape(self.title),
            escape(&self.note),
            escape(self.title),
            self.panel()
        )
    }

    /// Axes and lines alone, in a plane of [`WIDTH`] by [`HEIGHT`]: for a figure of several charts.
    pub(crate) fn panel(&self) -> String {
        let plane = Plane::of(self);
        let mut svg = String::new();
        plane.draw_axes(&mut svg, self);
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
        let mut x = widened(range(xs));
        if !chart.x_names.is_empty() {
            // Room at both sides, so that no name is cut off.
            x = (-0.35, chart.x_names.len() as f64 - 0.65);
        }
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

    fn draw_axes(&self, svg: &mut String, chart: &Chart) {
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
        for (value, name) in self.x_ticks(&chart.x_names) {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                self.x(value),
                bottom + 16.0,
                escape(&name)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.0}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            bottom + 32.0,
            escape(chart.x_label)
        );
    }

    /// Places on the horizontal axis and what stands under them.
    fn x_ticks(&self, names: &[String]) -> Vec<(f64, String)> {
        if !names.is_empty() {
            return names.iter().enumerate().map(|(i, name)| (i as f64, name.clone())).collect();
        }
        let step = nice_step((self.x.1 - self.x.0) / 8.0);
        let first = (self.x.0 / step).ceil() * step;
        let all = (0..).map(|i| first + f64::from(i) * step).take_while(|value| *value <= self.x.1 + 1e-9);
        all.map(|value| (value, label(value, step))).collect()
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
                x_names: vec![],
            };
            let svg = chart.render();
            assert!(svg.contains("&lt;n&gt;") && svg.ends_with("</figure>"));
            assert!(!svg.contains("inf"), "{svg}");
        }
    }
}
