//! A dot plot: per row one value of each system with its interval, on a common axis.

use super::scale::Scale;
use super::{COLOURS, figure, legend, open};
use crate::html::escape;
use crate::number;
use std::fmt::Write;

const WIDTH: f64 = 560.0;
const RIGHT: f64 = 18.0;

/// One value of a row.
#[derive(Debug, Clone)]
pub struct Dot {
    /// System, as in the legend.
    pub name: String,
    /// Colour number; colour 0 is drawn larger.
    pub colour: usize,
    /// Value.
    pub value: f64,
    /// 95% interval.
    pub interval: Option<(f64, f64)>,
}

/// One row.
#[derive(Debug, Clone)]
pub struct DotRow {
    /// Name at the left.
    pub name: String,
    /// Smaller text under it.
    pub note: String,
    /// Values.
    pub dots: Vec<Dot>,
    /// A level to compare with, such as chance.
    pub reference: Option<f64>,
}

/// A dot plot.
#[derive(Debug, Clone, Default)]
pub struct Dots {
    /// Title of the figure.
    pub title: String,
    /// One explaining line.
    pub note: String,
    /// Name of the axis.
    pub x: String,
    /// Ends of the axis; from the values if absent.
    pub range: Option<(f64, f64)>,
    /// Show values as percentages.
    pub percent: bool,
    /// The rows, from the top.
    pub rows: Vec<DotRow>,
}

impl Dots {
    /// The figure, or nothing if there is no finite value.
    pub fn figure(&self) -> Option<String> {
        let values = || self.rows.iter().flat_map(|row| &row.dots).filter(|dot| dot.value.is_finite());
        values().next()?;
        let (low, high) = self.range.unwrap_or_else(|| {
            let ends = values().flat_map(|dot| {
                let (low, high) = dot.interval.unwrap_or((dot.value, dot.value));
                [low, high, dot.value]
            });
            ends.filter(|v| v.is_finite())
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        });
        let longest = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0) as f64;
        let left = (longest * 6.9 + 16.0).clamp(90.0, 190.0);
        let per_row = self.rows.iter().map(|row| row.dots.len()).max().unwrap_or(1) as f64;
        let row_height = (per_row * 13.0 + 16.0).max(36.0);
        let height = self.rows.len() as f64 * row_height + 40.0;
        let x = Scale::new(low, high, left, WIDTH - RIGHT, false);
        let x = if self.range.is_none() { x.rounded(6) } else { x };
        let show = |value: f64| if self.percent { number::percent(value) } else { format!("{value:.3}") };

        let mut svg = open(WIDTH, height, &self.describe(&show));
        let bottom = height - 34.0;
        for (value, label) in x.ticks(6) {
            let place = x.place(value);
            let label = if self.percent { format!("{:.0}%", value * 100.0) } else { label };
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"4\" y2=\"{bottom:.0}\"/>\
                 <text class=\"tick\" x=\"{place:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
                bottom + 14.0
            );
        }
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            height - 4.0,
            escape(&self.x)
        );
        for (i, row) in self.rows.iter().enumerate() {
            self.draw_row(&mut svg, row, 4.0 + i as f64 * row_height, row_height, &x, &show);
        }
        svg.push_str("</svg>");
        Some(figure(&self.title, &self.note, &self.legend(), &svg))
    }

    fn draw_row(
        &self,
        svg: &mut String,
        row: &DotRow,
        top: f64,
        height: f64,
        x: &Scale,
        show: &dyn Fn(f64) -> String,
    ) {
        let middle = top + height / 2.0;
        let (name_y, note_y) =
            if row.note.is_empty() { (middle + 4.0, 0.0) } else { (middle - 1.0, middle + 12.0) };
        let _ = write!(svg, "<text class=\"row\" x=\"2\" y=\"{name_y:.1}\">{}</text>", escape(&row.name));
        if !row.note.is_empty() {
            let _ =
                write!(svg, "<text class=\"tick\" x=\"2\" y=\"{note_y:.1}\">{}</text>", escape(&row.note));
        }
        if let Some(level) = row.reference {
            let place = x.place(level);
            let _ = write!(
                svg,
                "<line class=\"reference\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{:.1}\" y2=\"{:.1}\">\
                 <title>chance {}</title></line>",
                top + 3.0,
                top + height - 3.0,
                show(level)
            );
        }
        let gap = 13.0;
        let first = middle - gap * (row.dots.len() as f64 - 1.0) / 2.0;
        for (i, dot) in row.dots.iter().enumerate().filter(|(_, dot)| dot.value.is_finite()) {
            let y = first + gap * i as f64;
            let colour = dot.colour % COLOURS;
            let place = x.place(dot.value);
            let mut tip = format!("{}, {}: {}", row.name, dot.name, show(dot.value));
            if let Some((low, high)) = dot.interval {
                let _ = write!(tip, " (95% {} to {})", show(low), show(high));
                let _ = write!(
                    svg,
                    "<line class=\"whisker s{colour}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                    x.place(low),
                    x.place(high)
                );
            }
            let radius = if colour == 0 { 4.5 } else { 3.6 };
            let _ = write!(
                svg,
                "<circle class=\"f{colour}\" cx=\"{place:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}</title></circle>",
                escape(&tip)
            );
        }
    }

    fn legend(&self) -> String {
        let mut seen: Vec<(&str, usize)> = Vec::new();
        for dot in self.rows.iter().flat_map(|row| &row.dots) {
            if !seen.iter().any(|(name, _)| *name == dot.name) {
                seen.push((&dot.name, dot.colour));
            }
        }
        if seen.len() > 1 { legend(seen) } else { String::new() }
    }

    fn describe(&self, show: &dyn Fn(f64) -> String) -> String {
        let mut text = format!("Dot plot, {}.", self.title);
        for row in &self.rows {
            let values: Vec<_> =
                row.dots.iter().map(|dot| format!("{} {}", dot.name, show(dot.value))).collect();
            let _ = write!(text, " {}: {}.", row.name, values.join(", "));
        }
        text
    }
}
