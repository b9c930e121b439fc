//! Spans of operators as a table and as a Chrome trace.

use herd_tensor::profile::Span;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One kind of span in the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Operator and direction; for a matrix product its layout and sizes.
    pub name: String,
    /// Calls in one step.
    pub calls: f64,
    /// Seconds in one step, without those of the spans inside.
    pub seconds: f64,
    /// Floating-point operations in one step, if it is a matrix product.
    pub operations: f64,
}

/// The kinds of spans, the longest first. Time that belongs to no span is the last line.
fn lines(steps: &[Vec<Span>]) -> Vec<Line> {
    let mut kinds: BTreeMap<String, Line> = BTreeMap::new();
    for spans in steps {
        for (i, span) in spans.iter().enumerate() {
            let inside = spans[i + 1..].iter().take_while(|inner| inner.depth > span.depth);
            let inside = inside.filter(|inner| inner.depth == span.depth + 1).map(|inner| inner.length);
            let own = span.length.saturating_sub(inside.sum());
            let name = name(span);
            let line = (kinds.entry(name.clone())).or_insert(Line {
                name,
                calls: 0.0,
                seconds: 0.0,
                operations: 0.0,
            });
            line.calls += 1.0 / steps.len() as f64;
            line.seconds += own.as_secs_f64() / steps.len() as f64;
            line.operations +=
                2.0 * span.sizes.iter().map(|&n| n as f64).product::<f64>() / steps.len() as f64;
        }
    }
    let mut lines: Vec<Line> = kinds.into_values().collect();
    lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    lines
}

fn name(span: &Span) -> String {
    match (span.sizes, span.backward) {
        ([0, ..], true) => format!("{} backward", span.name),
        ([0, ..], false) => span.name.to_string(),
        ([m, n, k], _) => format!("product {} {m} x {n} x {k}", span.name),
    }
}

/// Where the time of a step goes: a line for each operator with its own time (that of the operators and products it
/// calls is theirs).
pub fn table(steps: &[Vec<Span>]) -> String {
    let lines = lines(steps);
    let total: f64 = lines.iter().map(|line| line.seconds).sum();
    let products: f64 = lines.iter().filter(|line| line.operations > 0.0).map(|line| line.seconds).sum();
    let mut text =
        format!("  {:34} {:>6} {:>9} {:>7} {:>8}\n", "operator", "calls", "ms", "share", "GFLOP/s");
    for line in &lines {
        let share = 100.0 * line.seconds / total.max(f64::MIN_POSITIVE);
        let _ = write!(text, "  {:34} {:6.0} {:9.2} {share:6.1}%", line.name, line.calls, 1e3 * line.seconds);
        if line.operations > 0.0 {
            let _ = write!(text, " {:8.1}", line.operations / line.seconds / 1e9);
        }
        text.push('\n');
    }
    let _ = writeln!(text, "  {:34} {:6} {:9.2}", "matrix products together", "", 1e3 * products);
    let _ = writeln!(text, "  {:34} {:6} {:9.2}", "all", "", 1e3 * total);
    text
}

/// The spans in the format of `chrome://tracing` and Perfetto, the steps one after the other.
pub fn trace(steps: &[Vec<Span>]) -> Value {
    let mut events = Vec::new();
    let mut base = 0.0;
    for (step, spans) in steps.iter().enumerate() {
        let mut end = base;
        for span in spans {
            let (start, length) = (base + span.start.as_secs_f64() * 1e6, span.length.as_secs_f64() * 1e6);
            end = f64::max(end, start + length);
            events.push(json!({
                "name": name(span), "cat": if span.backward { "backward" } else { "forward" }, "ph": "X",
                "ts": start, "dur": length, "pid": 1, "tid": 1, "args": {"step": step + 2},
            }));
        }
        base = end;
    }
    json!({"traceEvents": events, "displayTimeUnit": "ms"})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn span(name: &'static str, sizes: [usize; 3], start: u64, length: u64, depth: usize) -> Span {
        let ms = Duration::from_millis;
        Span { name, backward: depth == 0, sizes, start: ms(start), length: ms(length), depth }
    }

    #[test]
    fn time_is_counted_once_and_for_the_innermost() {
        let step = vec![
            span("linear", [0; 3], 0, 10, 0),
            span("swiglu again", [0; 3], 1, 2, 1),
            span("nt", [100, 100, 100], 3, 4, 1),
            span("linear", [0; 3], 10, 5, 0),
        ];
        let lines = lines(&[step.clone(), step.clone()]);
        let told: Vec<_> =
            lines.iter().map(|l| (l.name.as_str(), l.calls, (l.seconds * 1e3).round())).collect();
        assert_eq!(
            told,
            [
                ("linear backward", 2.0, 9.0),
                ("product nt 100 x 100 x 100", 1.0, 4.0),
                ("swiglu again", 1.0, 2.0)
            ]
        );
        let text = table(std::slice::from_ref(&step));
        assert!(text.lines().any(|line| line.contains("product nt") && line.ends_with(" 0.5")), "{text}");
        let trace = trace(&[step.clone(), step]);
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!((events.len(), &events[4]["ts"], &events[4]["dur"]), (8, &json!(15e3), &json!(10e3)));
    }
}
