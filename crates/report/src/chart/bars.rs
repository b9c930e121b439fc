//! Shares of a whole (a stacked bar) and what remains after each step (a funnel).

use super::{COLOURS, figure, legend, open};
use crate::html::escape;
use crate::number;
use std::fmt::Write;

/// One bar cut into parts: time per stage, tokens per domain.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    /// Title of the figure; empty for a bare bar.
    pub title: String,
    /// One explaining line.
    pub note: String,
    /// Its parts from the left.
    pub parts: Vec<Part>,
}

/// One part of a bar.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Name in the legend.
    pub name: String,
    /// Size.
    pub size: f64,
    /// Size as text.
    pub text: String,
    /// Colour number.
    pub colour: usize,
}

/// The colour of a domain, the same in every chart.
pub fn domain_colour(name: &str) -> usize {
    let known = ["general", "code", "mathematics", "multilingual"].iter().position(|known| *known == name);
    known.unwrap_or(4 + name.len() % (COLOURS - 4))
}

impl Stack {
    /// The figure, or nothing if all parts are empty.
    pub fn figure(&self) -> Option<String> {
        let total: f64 = self.parts.iter().map(|part| part.size.max(0.0)).sum();
        if !total.is_finite() || total <= 0.0 {
            return None;
        }
        let words: Vec<_> = self.parts.iter().map(|part| format!("{} {}", part.name, part.text)).collect();
        let mut svg = open(1140.0, 30.0, &format!("Stacked bar, {}: {}.", self.title, words.join(", ")));
        let mut x = 0.0;
        for Part { name, size, text, colour } in &self.parts {
            let width = size.max(0.0) / total * 1140.0;
            let _ = write!(
                svg,
                "<rect class=\"f{}\" x=\"{x:.1}\" y=\"2\" width=\"{:.1}\" height=\"26\" rx=\"3\"><title>{}: {} ({})</title></rect>",
                colour % COLOURS,
                (width - 2.0).max(0.5),
                escape(name),
                escape(text),
                number::percent(size / total)
            );
            x += width;
        }
        svg.push_str("</svg>");
        let entries: Vec<_> =
            self.parts.iter().map(|part| (format!("{} · {}", part.name, part.text), part.colour)).collect();
        let legend = legend(entries.iter().map(|(name, colour)| (name.as_str(), *colour)));
        Some(figure(&self.title, &self.note, "", &format!("{svg}{legend}")))
    }
}

/// One step of a funnel.
#[derive(Debug, Clone, Default)]
pub struct FunnelStep {
    /// What the step does.
    pub name: String,
    /// What remains after it.
    pub kept: f64,
    /// What it removed.
    pub dropped: f64,
    /// The numbers beside the bar.
    pub text: String,
    /// Tooltip: why documents were removed.
    pub reasons: String,
}

/// What remains after each step.
#[derive(Debug, Clone, Default)]
pub struct Funnel {
    /// Title of the figure.
    pub title: String,
    /// One explaining line.
    pub note: String,
    /// The steps in order.
    pub steps: Vec<FunnelStep>,
}

impl Funnel {
    /// The figure, or nothing without steps.
    pub fn figure(&self) -> Option<String> {
        let most = self.steps.iter().map(|step| step.kept + step.dropped).fold(0.0, f64::max);
        if self.steps.is_empty() || most <= 0.0 || !most.is_finite() {
            return None;
        }
        let (width, left, right, row) = (1140.0, 190.0, 300.0, 27.0);
        let scale = (width - left - right) / most;
        let words: Vec<_> = self.steps.iter().map(|s| format!("{}: {}", s.name, s.text)).collect();
        let mut svg =
            open(width, self.steps.len() as f64 * row + 6.0, &format!("Funnel. {}.", words.join(". ")));
        for (i, step) in self.steps.iter().enumerate() {
            let y = 3.0 + i as f64 * row;
            let kept = (step.kept * scale).max(0.0);
            let dropped = (step.dropped * scale).max(0.0);
            let _ = write!(
                svg,
                "<g><title>{}</title><text class=\"row\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"f0\" x=\"{left}\" y=\"{:.1}\" width=\"{kept:.1}\" height=\"{:.0}\" rx=\"2\"/>\
                 <rect class=\"lost\" x=\"{:.1}\" y=\"{:.1}\" width=\"{dropped:.1}\" height=\"{:.0}\" rx=\"2\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                escape(if step.reasons.is_empty() { &step.text } else { &step.reasons }),
                left - 10.0,
                y + row / 2.0 + 4.0,
                escape(&step.name),
                y + 3.0,
                row - 6.0,
                left + kept,
                y + 3.0,
                row - 6.0,
                left + kept + dropped + 8.0,
                y + row / 2.0 + 4.0,
                escape(&step.text)
            );
        }
        svg.push_str("</svg>");
        let svg = svg.replacen("<svg ", "<svg class=\"wide\" ", 1);
        Some(figure(&self.title, &self.note, "", &format!("<div class=\"scroll\">{svg}</div>")))
    }
}
