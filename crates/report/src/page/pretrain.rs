//! Pre-training: curves over steps with their phases, the long-context gates, totals.

use super::{absent, pair};
use crate::chart::{Band, Line, Series};
use crate::folder::Folder;
use crate::html::{escape, facts};
use crate::json::Json;
use crate::number;
use serde_json::Value;

/// The values of a metric over steps. `names` are its possible names; a group before a slash does not count
/// (`train/loss` is `loss`).
pub fn series(metrics: &[Value], names: &[&str]) -> Vec<(f64, f64)> {
    metrics
        .iter()
        .filter_map(|line| {
            let object = line.as_object()?;
            let step = object.get("step")?.as_f64()?;
            let find = |name: &&str| {
                let direct = object.get(*name);
                direct.or_else(|| {
                    object.iter().find(|(key, _)| key.rsplit('/').next() == Some(name)).map(|(_, v)| v)
                })
            };
            let value = names.iter().find_map(find)?.as_f64()?;
            Some((step, value))
        })
        .collect()
}

pub fn body(folder: &Folder) -> String {
    if folder.metrics.is_empty() && !folder.pretrain().exists() {
        return absent("Pre-training", "herd pretrain");
    }
    let metrics = &folder.metrics;
    let bands = phases(folder);
    let chart = |title: &str, note: &str, names: &[&str], colour: usize| Line {
        title: title.into(),
        note: note.into(),
        x: "step".into(),
        bands: bands.clone(),
        series: vec![Series {
            name: title.to_lowercase(),
            colour,
            points: series(metrics, names),
            smooth: true,
            marks: false,
        }],
        ..Line::default()
    };
    let mut loss = chart(
        "Loss",
        "cross-entropy in nats per token; faint: each step, strong: running mean",
        &["loss"],
        0,
    );
    let held_out = series(metrics, &["held_out_loss", "validation_loss", "val_loss", "eval_loss"]);
    if !held_out.is_empty() {
        loss.series[0].name = "training".into();
        let points = held_out;
        loss.series.push(Series { name: "held-out".into(), colour: 1, points, smooth: false, marks: true });
    }
    let mut rate = chart(
        "Learning rate",
        "linear warm-up, cosine, then to zero in annealing",
        &["lr", "learning_rate"],
        2,
    );
    rate.series[0].smooth = false;
    rate.zero = true;
    let mut norm = chart("Gradient norm", "before clipping; logarithmic", &["grad_norm", "gradient_norm"], 4);
    norm.log = true;
    if let Some(clip) = folder
        .settings("pretrain")
        .any(&["clip", "grad_clip", "optimizer.clip", "optimizer.max_grad_norm"])
        .number()
    {
        norm.reference = Some((clip, format!("clipped above {}", number::significant(clip))));
    }
    let mut speed =
        chart("Throughput", "tokens a second", &["tokens_per_second", "tokens_per_s", "tok_per_s"], 1);
    speed.zero = true;
    let giga: Vec<_> = series(metrics, &["flops_per_second", "flop_per_s", "flops"])
        .into_iter()
        .map(|(x, y)| (x, y / 1e9))
        .collect();
    let mut flops = chart(
        "Compute",
        "useful GFLOP/s: 6 per parameter and token, plus causal attention counted once",
        &[],
        5,
    );
    flops.series[0].points = giga;
    flops.zero = true;
    let mut length = chart(
        "Tokens per step",
        "batch and sequence grow on schedule",
        &["batch_tokens", "tokens_per_step", "step_tokens"],
        3,
    );
    length.series[0].smooth = false;
    length.zero = true;

    let mut html = pair([loss.figure(), rate.figure()]);
    html.push_str(&pair([speed.figure(), flops.figure()]));
    html.push_str(&pair([norm.figure(), length.figure()]));
    html.push_str(&gates(folder));
    html.push_str(&totals(folder));
    html
}

/// Spans of steps with the same phase, from the metrics (a text `phase`, or the start steps in the summary).
fn phases(folder: &Folder) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for line in &folder.metrics {
        let json = Json::new(Some(line));
        let (Some(step), Some(phase)) = (json.at("step").number(), json.at("phase").text()) else { continue };
        match bands.last_mut() {
            Some(band) if band.name == phase => band.to = step,
            _ => bands.push(Band { name: phase.replace('_', " "), from: step, to: step }),
        }
    }
    if !bands.is_empty() {
        return bands;
    }
    let span = |phase: Json| {
        let name = phase.any(&["name", "phase"]).text()?.replace('_', " ");
        let from = phase.any(&["first_step", "from_step", "from", "start"]).number()?;
        Some(Band { name, from, to: phase.any(&["last_step", "to_step", "to", "end"]).number()? })
    };
    folder.pretrain().at("phases").items().filter_map(span).collect()
}

/// The two gates of every long-context stage (SPEC TRAIN-2).
fn gates(folder: &Folder) -> String {
    let stages: Vec<Json> =
        folder.pretrain().any(&["long_context", "gates", "long_context.stages"]).items().collect();
    if stages.is_empty() {
        return String::new();
    }
    let yes = |passed: Option<bool>| match passed {
        Some(true) => "<span class=\"yes\">passed</span>",
        Some(false) => "<span class=\"no\">not passed</span>",
        None => "-",
    };
    let flag = |stage: &Json, names: &[&str]| stage.any(names).value().and_then(Value::as_bool);
    let rows: String = stages
        .iter()
        .map(|stage| {
            let number = |names: &[&str]| stage.any(names).number();
            let before = number(&["short_loss_before", "reference_loss", "short_loss_reference"]);
            let after = number(&["short_loss_after", "short_loss"]);
            let losses = match (before, after) {
                (Some(before), Some(after)) => format!("{before:.3} → {after:.3}"),
                (None, Some(after)) => format!("{after:.3}"),
                _ => "-".into(),
            };
            let recall = number(&["needle_recall", "recall", "needle"]).map_or("-".into(), number::percent);
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{losses}</td><td>{}</td><td>{recall}</td><td>{}</td></tr>",
                number(&["context", "sequence", "length", "to"]).map_or("-".into(), number::whole),
                number(&["steps", "steps_taken"]).map_or("-".into(), number::whole),
                yes(flag(stage, &["short_recovered", "short_passed", "short_ok"])),
                yes(flag(stage, &["needle_passed", "needle_found", "needle_ok"])),
            )
        })
        .collect();
    format!(
        "<div class=\"card\"><h3>Long context: the two gates</h3><div class=\"scroll\"><table><thead><tr><th>Context</th>\
         <th>Steps</th><th>Short-context loss</th><th>Gate</th><th>Needle recall</th><th>Gate</th></tr></thead>\
         <tbody>{rows}</tbody></table></div></div>"
    )
}

/// Scalars of the summary.
fn totals(folder: &Folder) -> String {
    let pairs: Vec<(String, String)> = folder
        .pretrain()
        .entries()
        .filter_map(|(name, value)| {
            let shown = match value.number() {
                Some(seconds) if name.ends_with("seconds") => number::duration(seconds),
                _ => value.show()?,
            };
            Some((name.replace('_', " "), shown))
        })
        .collect();
    if pairs.is_empty() {
        return String::new();
    }
    let pairs: Vec<(&str, String)> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    format!("<div class=\"card\"><h3>{}</h3>{}</div>", escape("Totals"), facts(&pairs))
}
