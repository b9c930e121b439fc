//! A grid of shares, such as needle recall by depth and length.

use super::{figure, open};
use crate::html::escape;
use crate::number;
use std::fmt::Write;

/// A heat map of values from 0 to 1.
#[derive(Debug, Clone, Default)]
pub struct Heat {
    /// Title of the figure.
    pub title: String,
    /// One explaining line.
    pub note: String,
    /// Name of the columns.
    pub x: String,
    /// Name of the rows.
    pub y: String,
    /// Names of columns, from the left.
    pub columns: Vec<String>,
    /// Names of rows, from the top.
    pub rows: Vec<String>,
    /// `cells[row][column]`: the share and a tooltip; `None` was not measured.
    pub cells: Vec<Vec<Option<(f64, String)>>>,
}

impl Heat {
    /// The figure, or nothing without a cell.
    pub fn figure(&self) -> Option<String> {
        self.cells.iter().flatten().flatten().next()?;
        let (width, left, top) = (560.0, 64.0, 8.0);
        let cell_width = (width - left - 6.0) / self.columns.len().max(1) as f64;
        let cell_height = (290.0 / self.rows.len().max(1) as f64).clamp(24.0, 58.0);
        let height = top + self.rows.len() as f64 * cell_height + 42.0;
        let mut svg = open(width, height, &self.describe());
        for (r, row) in self.cells.iter().enumerate() {
            let y = top + r as f64 * cell_height;
            let name = self.rows.get(r).map_or("", String::as_str);
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 7.0,
                y + cell_height / 2.0 + 3.5,
                escape(name)
            );
            for (c, cell) in row.iter().enumerate().take(self.columns.len()) {
                let x = left + c as f64 * cell_width;
                let (share, tip) = match cell {
                    Some((share, tip)) => (share.clamp(0.0, 1.0), tip.as_str()),
                    None => (0.0, "not measured"),
                };
                let class = if cell.is_some() { "cell" } else { "absent" };
                let _ = write!(
                    svg,
                    "<g><title>{}</title><rect class=\"cell0\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"4\"/>\
                     <rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"4\" fill-opacity=\"{:.2}\"/>",
                    escape(tip),
                    x + 1.5,
                    y + 1.5,
                    cell_width - 3.0,
                    cell_height - 3.0,
                    x + 1.5,
                    y + 1.5,
                    cell_width - 3.0,
                    cell_height - 3.0,
                    0.06 + 0.9 * share
                );
                if cell.is_some() {
                    let ink = if share > 0.55 { "on" } else { "off" };
                    let _ = write!(
                        svg,
                        "<text class=\"celltext {ink}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0}</text>",
                        x + cell_width / 2.0,
                        y + cell_height / 2.0 + 4.0,
                        share * 100.0
                    );
                }
                svg.push_str("</g>");
            }
        }
        let bottom = top + self.rows.len() as f64 * cell_height;
        for (c, name) in self.columns.iter().enumerate() {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                left + (c as f64 + 0.5) * cell_width,
                bottom + 15.0,
                escape(name)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <text class=\"axis\" x=\"2\" y=\"{:.0}\">{}</text></svg>",
            width - 6.0,
            height - 6.0,
            escape(&self.x),
            height - 6.0,
            escape(&self.y)
        );
        Some(figure(&self.title, &self.note, "", &svg))
    }

    fn describe(&self) -> String {
        let mut text = format!("Heat map, {}; rows: {}, columns: {}.", self.title, self.y, self.x);
        for (row, cells) in self.rows.iter().zip(&self.cells) {
            let values: Vec<_> = cells
                .iter()
                .map(|c| c.as_ref().map_or("-".into(), |(share, _)| number::percent(*share)))
                .collect();
            let _ = write!(text, " {row}: {}.", values.join(", "));
        }
        text
    }
}
