//! The head: what was run, its totals, the wall time of each stage; and the recipe at the end.

use crate::chart::{Part, Stack};
use crate::folder::Folder;
use crate::html::{escape, fold};
use crate::json::Json;
use crate::number;
use crate::page::eval;

/// Four animals in a row: the mark of the program, drawn in the accent colour.
const MARK: &str = "<svg viewBox=\"0 0 26 24\" aria-hidden=\"true\"><g class=\"f0\">\
    <rect x=\"1\" y=\"13\" width=\"4\" height=\"9\" rx=\"2\"/><rect x=\"7.5\" y=\"8\" width=\"4\" height=\"14\" rx=\"2\"/>\
    <rect x=\"14\" y=\"4\" width=\"4\" height=\"18\" rx=\"2\"/><rect x=\"20.5\" y=\"2\" width=\"4\" height=\"20\" rx=\"2\"/></g></svg>";

/// Stages in the order of a run, as the manifest names them.
const STAGES: [&str; 7] = ["data", "tokenizer", "shards", "pretrain", "eval-base", "align", "eval-chat"];

/// A figure of the head: name, value, explanation.
pub struct Tile {
    /// What it is.
    pub name: &'static str,
    /// The number.
    pub value: String,
    /// A few words more.
    pub note: String,
}

pub fn body(folder: &Folder, links: &str) -> String {
    let tiles: String = tiles(folder)
        .iter()
        .map(|tile| {
            format!(
                "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
                escape(tile.name),
                escape(&tile.value),
                escape(&tile.note)
            )
        })
        .collect();
    let tiles = if tiles.is_empty() { tiles } else { format!("<dl class=\"tiles\">{tiles}</dl>") };
    format!(
        "<header class=\"top\"><div class=\"eyebrow\">{MARK}Herd · run report</div><h1>{}</h1><p class=\"lead\">{}</p>{tiles}{}\
         <nav aria-label=\"Sections\">{links}</nav></header>",
        escape(&folder.name()),
        lead(folder),
        times(folder).figure().unwrap_or_default(),
    )
}

/// One sentence on the whole run, as HTML.
fn lead(folder: &Folder) -> String {
    let mut parts = Vec::new();
    if let Some(input) = folder.funnel().at("steps").items().next() {
        let documents = input.at("documents_in").number();
        if let Some(documents) = documents {
            parts.push(format!("<b>{}</b> captured pages", number::whole(documents)));
        }
    }
    if let Some(tokens) = training_tokens(folder) {
        parts.push(format!("<b>{}</b> training tokens", number::compact(tokens)));
    }
    if let Some(parameters) = parameters(folder) {
        parts.push(format!("a Llama 3 model of <b>{}</b> parameters", number::compact(parameters)));
    }
    if parts.is_empty() {
        return "A run of Herd: from a raw web crawl to a model that chats.".into();
    }
    let seconds = total_seconds(folder);
    let end =
        if seconds > 0.0 { format!(", in <b>{}</b>", number::duration(seconds)) } else { String::new() };
    format!("{}{end}.", parts.join(", "))
}

/// The figures worth showing first.
pub fn tiles(folder: &Folder) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut add = |name, value: Option<String>, note: String| {
        if let Some(value) = value {
            tiles.push(Tile { name, value, note });
        }
    };
    let funnel: Vec<Json> = folder.funnel().at("steps").items().collect();
    if let (Some(first), Some(last)) = (funnel.first(), funnel.last()) {
        let kept = last.at("documents_out").number();
        let from = first.at("documents_in").number();
        let note = from.map(|n| format!("kept of {} pages", number::whole(n))).unwrap_or_default();
        add("Documents", kept.map(number::whole), note);
    }
    let vocabulary = folder.index().at("vocab_size").number();
    let note = vocabulary.map(|v| format!("vocabulary {}", number::whole(v))).unwrap_or_default();
    add("Training tokens", training_tokens(folder).map(number::compact), note);
    let shape = ["num_hidden_layers", "hidden_size"].map(|key| folder.model().at(key).number());
    let note = match shape {
        [Some(layers), Some(width)] => format!("{layers:.0} layers, width {width:.0}"),
        _ => String::new(),
    };
    add("Parameters", parameters(folder).map(number::compact), note);
    if let Some(best) = eval::overall(folder) {
        let note = best.bigram.map(|bigram| format!("bigram {bigram:.3}")).unwrap_or_default();
        add("Bits per byte", Some(format!("{:.3}", best.transformer)), note);
    }
    let accuracy = folder.align().at("reward.accuracy.score").number();
    add("Reward accuracy", accuracy.map(number::percent), "on held-out pairs".into());
    let seconds = total_seconds(folder);
    if seconds > 0.0 {
        add("Wall time", Some(number::duration(seconds)), "over all stages".into());
    }
    tiles
}

fn training_tokens(folder: &Folder) -> Option<f64> {
    let total: f64 =
        folder.index().at("domains").items().filter_map(|domain| domain.at("train.tokens").number()).sum();
    (total > 0.0).then_some(total)
}

fn parameters(folder: &Folder) -> Option<f64> {
    folder.pretrain().at("parameters").number().or_else(|| folder.base_eval().at("parameters").number())
}

/// Wall time over all stages, seconds.
pub fn total_seconds(folder: &Folder) -> f64 {
    folder.manifest().at("stages").entries().filter_map(|(_, stage)| stage.at("seconds").number()).sum()
}

fn times(folder: &Folder) -> Stack {
    let stages = folder.manifest().at("stages");
    let known = STAGES.into_iter().map(|name| (name, stages.at(name)));
    let others = stages.entries().filter(|(name, _)| !STAGES.contains(name));
    let parts = known
        .chain(others)
        .filter_map(|(name, stage)| {
            let seconds = stage.at("seconds").number()?;
            let state = if stage.at("state").text() == Some("done") { "" } else { " (not finished)" };
            Some((format!("{name}{state}"), seconds))
        })
        .enumerate()
        .map(|(colour, (name, size))| Part { name, size, text: number::duration(size), colour })
        .collect();
    Stack { title: "Wall time by stage".into(), note: String::new(), parts }
}

/// The settings of every stage.
pub fn recipe(folder: &Folder) -> String {
    let stages = folder.manifest().at("stages");
    let mut names: Vec<&str> = stages.entries().map(|(name, _)| name).collect();
    if names.is_empty() {
        return super::absent("The recipe", "herd run RECIPE.toml");
    }
    names.sort_by_key(|name| STAGES.iter().position(|stage| stage == name).unwrap_or(STAGES.len()));
    names
        .into_iter()
        .map(|name| {
            let stage = stages.at(name);
            let settings =
                stage.at("settings").value().map(|v| serde_json::to_string_pretty(v).unwrap_or_default());
            let key: String = stage.at("key").text().unwrap_or("").chars().take(16).collect();
            let settings = escape(&settings.unwrap_or_default());
            fold(&format!("{name} · key {key}"), &format!("<pre>{settings}</pre>"))
        })
        .collect()
}
