//! Charts drawn as inline SVG: no library, no script, colours from the page's style sheet so that they follow light
//! and dark. Every chart carries a spoken description, and marks carry a tooltip.

mod bars;
mod dots;
mod heat;
mod line;
mod scale;

pub use bars::{Funnel, FunnelStep, Part, Stack, domain_colour};
pub use dots::{Dot, DotRow, Dots};
pub use heat::Heat;
pub use line::{Band, Line, Series};

use crate::html::escape;

/// Colours that the style sheet defines as `--c0` ... `--c7`.
pub const COLOURS: usize = 8;

/// Wraps a chart as a figure: title, an explaining line, the legend and the drawing. `svg` and `legend` are markup.
pub fn figure(title: &str, note: &str, legend: &str, svg: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!(" <span>{}</span>", escape(note)) };
    format!("<figure><figcaption><b>{}</b>{note}</figcaption>{legend}{svg}</figure>", escape(title))
}

/// A legend of names with their colours.
pub fn legend<'a>(entries: impl IntoIterator<Item = (&'a str, usize)>) -> String {
    let items: String = entries
        .into_iter()
        .map(|(name, colour)| format!("<li><i class=\"k{}\"></i>{}</li>", colour % COLOURS, escape(name)))
        .collect();
    format!("<ul class=\"legend\">{items}</ul>")
}

/// The opening tag with role and spoken description.
fn open(width: f64, height: f64, description: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}\">",
        escape(description)
    )
}
