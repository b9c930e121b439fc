//! The data funnel: documents and bytes after each step, reasons and samples of what was dropped, domains.

use super::{absent, pair};
use crate::chart::{Funnel, FunnelStep, Part, Stack, domain_colour};
use crate::folder::Folder;
use crate::html::{escape, facts, fold, shorten, table};
use crate::json::Json;
use crate::number;
use herd_data::rejects::Reject;
use std::fmt::Write;

/// Languages with a part of their own; the others share one.
const SHOWN: usize = 7;

/// Characters shown of a dropped document.
const SAMPLE: usize = 220;

/// Characters shown of its address.
const LINK: usize = 110;

pub fn body(folder: &Folder) -> String {
    let steps: Vec<Json> = folder.funnel().at("steps").items().collect();
    if steps.is_empty() {
        return absent("The data stage", "herd data");
    }
    let funnel = Funnel {
        title: "What remains after each step".into(),
        note: "documents kept (dark) and removed by the step (light)".into(),
        steps: steps.iter().map(|step| funnel_step(*step)).collect(),
    };
    let mut html = funnel.figure().unwrap_or_default();
    let domains = mix(folder, "domains", "Documents by domain", |name, _| domain_colour(name));
    let languages = mix(folder, "languages", "Documents by language", |_, place| place);
    html.push_str(&pair([domains, languages]));
    html.push_str(&totals(folder));
    html.push_str(&rejects(folder, &steps));
    html
}

fn documents_out(step: Json) -> Option<f64> {
    step.at("documents_out").number()
}

fn dropped(step: Json) -> f64 {
    let before = step.at("documents_in").number();
    before.zip(documents_out(step)).map_or(0.0, |(before, after)| (before - after).max(0.0))
}

fn name(step: Json) -> String {
    step.at("step").text().unwrap_or("step").replace('_', " ")
}

/// Rules with the documents that they dropped, most first.
fn reasons(step: Json) -> Vec<(String, f64)> {
    let rules = step.at("dropped").entries();
    let mut all: Vec<_> =
        rules.filter_map(|(rule, count)| Some((rule.to_string(), count.number()?))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all
}

fn funnel_step(step: Json) -> FunnelStep {
    let kept = documents_out(step).unwrap_or(0.0);
    let dropped = dropped(step);
    let size = step.at("bytes_out").number().map(|b| format!(", {}", number::bytes(b)));
    let removed = if dropped > 0.0 { format!(" (−{})", number::whole(dropped)) } else { String::new() };
    let words: Vec<_> =
        reasons(step).iter().map(|(rule, count)| format!("{rule}: {}", number::whole(*count))).collect();
    FunnelStep {
        name: name(step),
        kept,
        dropped,
        text: format!("{}{}{removed}", number::whole(kept), size.unwrap_or_default()),
        reasons: words.join("\n"),
    }
}

/// A bar of documents by domain or language: `{name: {documents, bytes}}` in the summary.
fn mix(folder: &Folder, key: &str, title: &str, colour: impl Fn(&str, usize) -> usize) -> Option<String> {
    let entries = folder.data().at(key).entries();
    let counts =
        entries.filter_map(|(name, entry)| Some((name.to_string(), entry.at("documents").number()?)));
    let mut all: Vec<(String, f64)> = counts.collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rest: f64 = all.iter().skip(SHOWN).map(|(_, documents)| documents).sum();
    all.truncate(SHOWN);
    if rest > 0.0 {
        all.push(("others".into(), rest));
    }
    let part = |(place, (name, size)): (usize, (String, f64))| Part {
        colour: colour(&name, place),
        text: number::whole(size),
        name,
        size,
    };
    let parts = all.into_iter().enumerate().map(part).collect();
    Stack { title: title.into(), note: String::new(), parts }.figure()
}

/// Archives, responses, damage and clusters, from the summary.
fn totals(folder: &Folder) -> String {
    let summary = folder.data();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for (name, path) in [
        ("Archives", "archives"),
        ("Responses in them", "responses"),
        ("Documents", "documents"),
        ("Clusters of near-duplicates", "clusters"),
        ("Lines dropped everywhere", "frequent_lines"),
    ] {
        if let Some(value) = summary.at(path).number() {
            pairs.push((name, number::whole(value)));
        }
    }
    if let Some(size) = summary.at("bytes").number() {
        pairs.push(("Text", number::bytes(size)));
    }
    if pairs.is_empty() {
        return String::new();
    }
    pairs.push(("Damaged places survived", summary.at("damage").items().count().to_string()));
    format!("<div class=\"card\">{}</div>", facts(&pairs))
}

/// For every step that dropped something: its rules with their counts, and a few of the dropped documents.
fn rejects(folder: &Folder, steps: &[Json]) -> String {
    let mut html = String::new();
    for step in steps.iter().filter(|step| dropped(**step) > 0.0) {
        let rules = reasons(*step);
        let rows: Vec<_> =
            rules.iter().map(|(rule, count)| vec![rule.clone(), number::whole(*count)]).collect();
        let mut content = table(&["Rule", "Documents"], &rows);
        let of_step = |sample: &&Reject| rules.iter().any(|(rule, _)| *rule == sample.reason.rule);
        for sample in folder.rejects.iter().filter(of_step) {
            let _ = write!(
                content,
                "<p class=\"reject\"><b>{}</b> measured {}, bound {}<br><span>{}</span></p><pre>{}</pre>",
                escape(&sample.reason.rule),
                number::significant(sample.reason.value.into()),
                number::significant(sample.reason.threshold.into()),
                escape(&shorten(&sample.url, LINK)),
                escape(&shorten(&sample.reason.excerpt, SAMPLE))
            );
        }
        html.push_str(&fold(
            &format!("{}: {} removed", name(*step), number::whole(dropped(*step))),
            &content,
        ));
    }
    if html.is_empty() {
        html
    } else {
        format!("<div class=\"card\"><h3>What was removed, with samples</h3>{html}</div>")
    }
}
