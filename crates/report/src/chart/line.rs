//! Lines over a common axis: loss, learning rate, throughput, margins.

use super::scale::Scale;
use super::{COLOURS, figure, legend, open};
use crate::html::escape;
use crate::number;
use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 36.0;

/// Points drawn of one line; more are thinned, keeping the extremes of each column.
const COLUMNS: usize = 360;

/// One line.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Colour number.
    pub colour: usize,
    /// Points in ascending x; values that are not finite leave a gap.
    pub points: Vec<(f64, f64)>,
    /// Draw the points faintly and a running mean over them strongly.
    pub smooth: bool,
    /// Mark every point, for few of them.
    pub marks: bool,
}

/// A span of the x axis with a name, such as a phase of training.
#[derive(Debug, Clone)]
pub struct Band {
    /// Name written at its top.
    pub name: String,
    /// First x.
    pub from: f64,
    /// Last x.
    pub to: f64,
}

/// A line chart.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Title of the figure.
    pub title: String,
    /// One explaining line.
    pub note: String,
    /// Name of the x axis.
    pub x: String,
    /// Logarithmic y axis.
    pub log: bool,
    /// The y axis includes 0.
    pub zero: bool,
    /// A horizontal reference with its name.
    pub reference: Option<(f64, String)>,
    /// Named spans of x.
    pub bands: Vec<Band>,
    /// The lines.
    pub series: Vec<Series>,
}

impl Line {
    /// The figure, or nothing if there is no finite point.
    pub fn figure(&self) -> Option<String> {
        let finite = |s: &Series| -> Vec<(f64, f64)> {
            s.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
        };
        let series: Vec<_> =
            self.series.iter().map(|s| (finite(s), s)).filter(|(points, _)| !points.is_empty()).collect();
        let all = || series.iter().flat_map(|(points, _)| points.iter().copied());
        all().next()?;
        let (x0, x1) = extent(all().map(|p| p.0));
        let reference = self.reference.iter().map(|(value, _)| *value);
        let (mut y0, y1) = extent(all().map(|p| p.1).chain(reference));
        if self.zero {
            y0 = y0.min(0.0);
        }
        let x = Scale::new(x0, x1, LEFT, WIDTH - RIGHT, false);
        let y = Scale::new(y0, y1, HEIGHT - BOTTOM, TOP, self.log).rounded(5);

        let mut svg = open(WIDTH, HEIGHT, &self.describe(&series));
        self.draw_bands(&mut svg, &x);
        for (value, label) in y.ticks(5) {
            let place = y.place(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/>\
                 <text class=\"tick\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                place + 3.5
            );
        }
        for (value, label) in x.ticks(6) {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
                x.place(value),
                HEIGHT - BOTTOM + 15.0
            );
        }
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 5.0,
            escape(&self.x)
        );
        if let Some((value, name)) = &self.reference {
            let place = y.place(*value);
            let _ = write!(
                svg,
                "<line class=\"reference\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/>\
                 <text class=\"axis\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                WIDTH - RIGHT - 2.0,
                place - 4.0,
                escape(name)
            );
        }
        for (points, series) in &series {
            draw_series(&mut svg, series, points, &x, &y);
        }
        svg.push_str("</svg>");
        let names = series.iter().map(|(_, s)| (s.name.as_str(), s.colour));
        let legend = if series.len() > 1 { legend(names) } else { String::new() };
        Some(figure(&self.title, &self.note, &legend, &svg))
    }

    fn draw_bands(&self, svg: &mut String, x: &Scale) {
        for (i, band) in self.bands.iter().enumerate() {
            let (from, to) = (x.place(band.from), x.place(band.to));
            let width = (to - from).max(0.0);
            let _ = write!(
                svg,
                "<rect class=\"band{}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.0}\"><title>{}</title></rect>",
                i % 2,
                HEIGHT - TOP - BOTTOM,
                escape(&band.name)
            );
            // A name that does not fit above its band is left to the tooltip.
            if width > band.name.chars().count() as f64 * 5.6 {
                let middle = (from + to) / 2.0;
                let _ = write!(
                    svg,
                    "<text class=\"phase\" x=\"{middle:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                    TOP - 6.0,
                    escape(&band.name)
                );
            }
        }
    }

    fn describe(&self, series: &[(Vec<(f64, f64)>, &Series)]) -> String {
        let mut text = format!("Line chart, {} over {}.", self.title, self.x);
        for (points, series) in series {
            if let (Some(first), Some(last)) = (points.first(), points.last()) {
                let _ = write!(
                    text,
                    " {}: from {} to {}.",
                    series.name,
                    number::significant(first.1),
                    number::significant(last.1)
                );
            }
        }
        text
    }
}

fn draw_series(svg: &mut String, series: &Series, points: &[(f64, f64)], x: &Scale, y: &Scale) {
    let colour = series.colour % COLOURS;
    if series.smooth && points.len() > 24 {
        let _ = write!(svg, "<path class=\"raw s{colour}\" d=\"{}\"/>", path(&thin(points), x, y));
        let _ = write!(
            svg,
            "<path class=\"line s{colour}\" d=\"{}\"/>",
            path(&thin(&running_mean(points)), x, y)
        );
    } else if points.len() > 1 {
        let _ = write!(svg, "<path class=\"line s{colour}\" d=\"{}\"/>", path(&thin(points), x, y));
    }
    if series.marks || points.len() == 1 {
        for &(px, py) in points {
            let _ = write!(
                svg,
                "<circle class=\"f{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {} at {}</title></circle>",
                x.place(px),
                y.place(py),
                escape(&series.name),
                number::significant(py),
                number::compact(px)
            );
        }
    }
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

fn path(points: &[(f64, f64)], x: &Scale, y: &Scale) -> String {
    let mut d = String::with_capacity(points.len() * 12);
    for (i, &(px, py)) in points.iter().enumerate() {
        let _ = write!(d, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x.place(px), y.place(py));
    }
    d
}

/// At most two points a column, its lowest and highest in their order, so that spikes stay visible.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * COLUMNS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * COLUMNS + 2);
    for column in points.chunks(points.len().div_ceil(COLUMNS)) {
        let low = column.iter().enumerate().min_by(|a, b| a.1.1.total_cmp(&b.1.1)).map_or(0, |(i, _)| i);
        let high = column.iter().enumerate().max_by(|a, b| a.1.1.total_cmp(&b.1.1)).map_or(0, |(i, _)| i);
        kept.push(column[low.min(high)]);
        if low != high {
            kept.push(column[low.max(high)]);
        }
    }
    kept.extend(points.last());
    kept
}

/// Mean over a centred window of 1/25 of the points; near the ends the window shrinks on both sides alike, so that
/// the line neither lags nor bends.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 50).max(2);
    let mut sums = Vec::with_capacity(points.len() + 1);
    sums.push(0.0);
    for &(_, y) in points {
        sums.push(sums[sums.len() - 1] + y);
    }
    (0..points.len())
        .map(|i| {
            let reach = half.min(i).min(points.len() - 1 - i);
            let (from, to) = (i - reach, i + reach + 1);
            (points[i].0, (sums[to] - sums[from]) / (to - from) as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Option<String> {
        let series = Series { name: "a<b".into(), points, ..Series::default() };
        Line { title: "t".into(), x: "step".into(), series: vec![series], ..Line::default() }.figure()
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        assert!(chart(vec![]).is_none());
        assert!(chart(vec![(1.0, f64::NAN)]).is_none());
        let svg = chart(vec![(0.0, 1.0), (1.0, f64::INFINITY), (2.0, 3.0)]).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.contains("a&lt;b"), "{svg}");
        assert!(svg.contains("from 1 to 3"));
    }

    #[test]
    fn thinning_keeps_a_spike_and_the_end() {
        let mut points: Vec<_> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[54_321].1 = 9.0;
        let kept = thin(&points);
        assert!(kept.len() < 800 && kept.iter().any(|p| p.1 == 9.0));
        assert_eq!(kept.last(), points.last());
        assert!(kept.windows(2).all(|w| w[0].0 <= w[1].0));
    }

    #[test]
    fn the_running_mean_of_a_line_is_the_line() {
        let points: Vec<_> = (0..200).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        assert!(running_mean(&points).iter().all(|(x, y)| (y - 2.0 * x).abs() < 1e-9));
    }
}
