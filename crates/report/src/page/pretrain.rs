//! Pre-training: curves over steps with their phases, the long-context gates, totals.

use super::{absent, pair};
use crate::chart::{Band, Line, Part, Series, Stack, domain_colour};
use crate::folder::Folder;
use crate::html::{facts, note, table};
use crate::json::Json;
use crate::number;
use serde_json::Value;

/// The values of a metric over steps: of the key `name`, or of one that ends in it after a slash (`train/loss` is
/// `loss`).
pub fn series(metrics: &[Value], name: &str) -> Vec<(f64, f64)> {
    let suffix = format!("/{name}");
    metrics
        .iter()
        .filter_map(|line| {
            let object = line.as_object()?;
            let (_, value) = object.iter().find(|(key, _)| *key == name || key.ends_with(&suffix))?;
            Some((Json::new(object.get("step")).number()?, Json::new(Some(value)).number()?))
        })
        .collect()
}

pub fn body(folder: &Folder) -> String {
    if folder.metrics.is_empty() && !folder.pretrain().exists() {
        return absent("Pre-training", "herd pretrain");
    }
    let mut html = curves(folder);
    html.push_str(&gates(folder));
    html.push_str(&phase_table(folder));
    html.push_str(&totals(folder));
    html.push_str(&mix(folder));
    html
}

fn curves(folder: &Folder) -> String {
    let metrics = &folder.metrics;
    let bands = phases(folder);
    let chart = |title: &str, note: &str, name: &str, colour: usize| {
        let points = series(metrics, name);
        let name = title.to_lowercase();
        Line {
            title: title.into(),
            note: note.into(),
            x: "step".into(),
            bands: bands.clone(),
            series: vec![Series { name, colour, points, smooth: true, marks: false }],
            ..Line::default()
        }
    };
    let mut loss =
        chart("Loss", "cross-entropy, nats per token; faint: each step, strong: running mean", "loss", 0);
    let points = series(metrics, "held_out/loss/all");
    if !points.is_empty() {
        loss.series[0].name = "training".into();
        loss.series.push(Series { name: "held-out".into(), colour: 1, points, smooth: false, marks: true });
    }
    let mut rate =
        chart("Learning rate", "linear warm-up, cosine, then to zero in annealing", "learning_rate", 2);
    rate.series[0].smooth = false;
    rate.zero = true;
    let mut norm = chart("Gradient norm", "before clipping; logarithmic", "grad_norm", 4);
    norm.log = true;
    let settings = folder.settings("pretrain");
    if let Some(clip) = settings.at("pretrain.optimizer.clip").number() {
        norm.reference = Some((clip, format!("clipped above {}", number::significant(clip))));
    }
    let mut speed = chart("Throughput", "tokens a second", "tokens_per_second", 1);
    speed.zero = true;
    let mut flops = chart("Compute", "useful GFLOP/s, attention counted causally", "flops_per_second", 5);
    flops.series[0].points.iter_mut().for_each(|(_, rate)| *rate /= 1e9);
    flops.zero = true;
    let mut length = chart("Tokens per step", "batch and sequence grow on schedule", "batch_tokens", 3);
    length.series[0].smooth = false;
    length.zero = true;
    let rows = [[loss, rate], [speed, flops], [norm, length]];
    rows.map(|row| pair(row.map(|chart| chart.figure()))).concat()
}

/// Spans of steps by phase, from the summary.
fn phases(folder: &Folder) -> Vec<Band> {
    let span = |phase: Json| {
        let name = phase.at("name").text()?.to_string();
        let from = phase.at("first_step").number()?;
        Some(Band { name, from, to: from + phase.at("steps").number()? })
    };
    folder.pretrain().at("phases").items().filter_map(span).collect()
}

fn count(json: Json, path: &str) -> String {
    json.at(path).number().map_or("-".into(), number::whole)
}

fn phase_table(folder: &Folder) -> String {
    let rows: Vec<Vec<String>> = folder
        .pretrain()
        .at("phases")
        .items()
        .map(|phase| {
            let name = phase.at("name").text().unwrap_or("?").to_string();
            let tokens = phase.at("tokens").number().map_or("-".into(), number::compact);
            vec![name, count(phase, "first_step"), count(phase, "steps"), tokens, count(phase, "sequence")]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["Phase", "From step", "Steps", "Tokens", "Longest sequence"];
    format!("<div class=\"card\"><h3>Phases</h3>{}</div>", table(&heads, &rows))
}

/// The two gates of every long-context stage (SPEC TRAIN-2).
fn gates(folder: &Folder) -> String {
    let gate = |passed: Json| match passed.value().and_then(Value::as_bool) {
        Some(true) => "<span class=\"yes\">passed</span>",
        Some(false) => "<span class=\"no\">not passed</span>",
        None => "-",
    };
    let rows: String = folder
        .pretrain()
        .at("long_context")
        .items()
        .map(|stage| {
            let share = |path: &str| stage.at(path).number().map_or("-".into(), number::percent);
            let loss = |path: &str| stage.at(path).number().map_or("-".into(), |loss| format!("{loss:.3}"));
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{} → {}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                count(stage, "context"),
                count(stage, "steps"),
                loss("loss_before"),
                loss("loss_after"),
                gate(stage.at("loss_recovered")),
                share("recall.exact"),
                share("recall.ranked"),
                gate(stage.at("needle_found")),
            )
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<div class=\"card\"><h3>Long context: the two gates</h3><div class=\"scroll\"><table><thead><tr>\
         <th scope=\"col\">Context</th><th scope=\"col\">Steps</th><th scope=\"col\">Short-context loss</th>\
         <th scope=\"col\">Gate 1: recovered</th><th scope=\"col\">Needle, greedy</th>\
         <th scope=\"col\">Needle, best of 10</th><th scope=\"col\">Gate 2: found</th></tr></thead>\
         <tbody>{rows}</tbody></table></div></div>"
    )
}

/// The totals of the summary, its notes and its way of counting FLOPs.
fn totals(folder: &Folder) -> String {
    let summary = folder.pretrain();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    let mut add = |name, path: &str, show: &dyn Fn(f64) -> String| {
        if let Some(value) = summary.at(path).number() {
            pairs.push((name, show(value)));
        }
    };
    add("Parameters", "parameters", &number::whole);
    add("Steps", "steps", &number::whole);
    add("Tokens", "tokens", &number::compact);
    add("Time in steps", "seconds", &number::duration);
    add("Tokens a second", "tokens_per_second", &number::whole);
    add("Compute", "flops_per_second", &|rate| format!("{} GFLOP/s", number::significant(rate / 1e9)));
    add("Of the machine's peak (MFU)", "mfu", &number::percent);
    add("Peak", "peak_flops", &|peak| format!("{} GFLOP/s", number::significant(peak / 1e9)));
    add("Held-out loss, last weights", "averaging.loss_last", &|loss| format!("{loss:.4}"));
    add("Held-out loss, averaged", "averaging.loss_final", &|loss| format!("{loss:.4}"));
    add("Batches left out", "skipped_batches", &number::whole);
    let averaged = summary.at("averaging.steps").items().count();
    if averaged > 0 {
        pairs.push(("Checkpoints averaged", averaged.to_string()));
    }
    let mut html = String::new();
    if !pairs.is_empty() {
        html.push_str(&format!("<div class=\"card\"><h3>Totals</h3>{}</div>", facts(&pairs)));
    }
    let notes = summary.at("notes").items().filter_map(|n| n.text());
    let convention =
        summary.at("mfu_convention").text().map(|text| format!("How compute is counted: {text}."));
    notes.map(str::to_string).chain(convention).for_each(|text| html.push_str(&note(&text)));
    html
}

fn mix(folder: &Folder) -> String {
    let parts = folder.pretrain().at("domains").items().filter_map(|domain| {
        let name = domain.at("name").text()?.to_string();
        let tokens = domain.at("tokens").number()?;
        let epochs = domain.at("epochs").number().map_or(String::new(), |e| format!(", {e:.1} epochs"));
        let text = format!("{}{epochs}", number::compact(tokens));
        Some(Part { colour: domain_colour(&name), name, size: tokens, text })
    });
    let stack = Stack {
        title: "Tokens trained on, by domain".into(),
        note: "over all phases, with the passes over each domain".into(),
        parts: parts.collect(),
    };
    stack.figure().unwrap_or_default()
}
