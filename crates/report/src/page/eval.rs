//! Evaluation: bits per byte against n-grams, needle recall, multiple choice, exact match; each with its interval.

use super::{absent, pair};
use crate::chart::{Dot, DotRow, Dots, Heat};
use crate::folder::Folder;
use crate::html::{note, table};
use crate::json::Json;
use crate::number;
use std::fmt::Write;

/// The systems of the bits-per-byte comparison, best first, as `eval/MODEL/summary.json` names them.
const SYSTEMS: [(&str, &str, usize); 4] = [
    ("transformer", "Transformer", 0),
    ("trigram", "trigram", 1),
    ("bigram", "bigram", 2),
    ("unigram", "unigram", 3),
];

/// Kinds of instructions drawn.
const KINDS: usize = 9;

/// Bits per byte over all domains.
pub struct Overall {
    /// The base model.
    pub transformer: f64,
    /// The bigram model.
    pub bigram: Option<f64>,
}

/// Bits per byte of the base model over all domains, if evaluated.
pub fn overall(folder: &Folder) -> Option<Overall> {
    let all = folder.base_eval().at("bits_per_byte.all");
    let transformer = all.at("transformer.score").number()?;
    Some(Overall { transformer, bigram: all.at("bigram.score").number() })
}

pub fn body(folder: &Folder) -> String {
    let models: Vec<(&str, Json)> = folder.evals().collect();
    if models.is_empty() {
        return absent("Evaluation", "herd eval");
    }
    let mut html = String::new();
    let base = folder.base_eval();
    html.push_str(&pair([bits_per_byte(base), choices(&models)]));
    html.push_str(&comparison(base));
    html.push_str(&pair([
        heat(base, "recall", "total", "Needle in a haystack", "greedy answer right, percent"),
        heat(
            base,
            "ranked",
            "ranked",
            "Needle, likeliest of ten",
            "true answer before nine others, percent; chance 10",
        ),
    ]));
    html.push_str(&pair([
        answers(
            &models,
            "exact",
            "wilson",
            "Instructions answered exactly",
            "share equal to the expected answer",
        ),
        answers(
            &models,
            "f1",
            "interval",
            "Instructions, overlap of words",
            "mean F1 with the expected answer",
        ),
    ]));
    let rows = choice_rows(folder);
    if !rows.is_empty() {
        let heads =
            ["Task", "Model", "N", "Chance", "acc", "95% (Wilson)", "acc_norm", "95% (Wilson)", "acc_bytes"];
        let _ = write!(
            html,
            "<div class=\"card\"><h3>Multiple choice, in numbers</h3>{}</div>",
            table(&heads, &rows)
        );
    }
    html.push_str(&note(
        "Intervals: bits per byte by percentile bootstrap over documents; shares by Wilson's score interval in the \
         charts (the normal interval 1.96·√(S(1−S)/N) stands beside it in eval/MODEL/summary.json). The n-gram models are \
         interpolated modified Kneser-Ney over all training shards, on the same documents and tokens.",
    ));
    html
}

fn dot(name: &str, colour: usize, score: Json, interval: &str) -> Option<Dot> {
    let value = score.at("score").number()?;
    Some(Dot { name: name.into(), colour, value, interval: score.at(interval).interval() })
}

fn bits_per_byte(model: Json) -> Option<String> {
    let measured = model.at("bits_per_byte");
    let domains = measured.at("domains").items();
    let all = Some(measured.at("all")).filter(|all| all.exists());
    let row = |domain: Json| {
        let name = domain.at("domain").text().unwrap_or("all").to_string();
        let documents =
            domain.at("documents").number().map_or(String::new(), |n| format!("{n:.0} documents"));
        let dots =
            SYSTEMS.iter().filter_map(|(key, name, colour)| dot(name, *colour, domain.at(key), "interval"));
        DotRow { name, note: documents, dots: dots.collect(), reference: None }
    };
    Dots {
        title: "Bits per byte on held-out documents".into(),
        note: "lower is better; the same documents and tokens for all".into(),
        x: "bits per byte".into(),
        rows: domains.chain(all).map(row).collect(),
        ..Dots::default()
    }
    .figure()
}

/// The table of bits per byte: domain, documents, then each system with its interval.
pub fn domain_rows(folder: &Folder) -> Vec<Vec<String>> {
    let measured = folder.base_eval().at("bits_per_byte");
    let all = Some(measured.at("all")).filter(|all| all.exists());
    let rows = measured.at("domains").items().chain(all);
    rows.map(|domain| {
        let mut row = vec![domain.at("domain").text().unwrap_or("all").to_string()];
        row.extend(SYSTEMS.iter().map(|(key, ..)| {
            let score = domain.at(key);
            match (score.at("score").number(), score.at("interval").interval()) {
                (Some(score), Some((low, high))) => format!("{score:.3} ({low:.3}-{high:.3})"),
                (Some(score), None) => format!("{score:.3}"),
                _ => "-".into(),
            }
        }));
        row
    })
    .collect()
}

/// The paired tests of the Transformer against each n-gram model.
fn comparison(model: Json) -> String {
    let rows: Vec<Vec<String>> = model
        .at("bits_per_byte.against")
        .items()
        .map(|test| {
            let number = |path: &str| test.at(path).number();
            let interval = test.at("interval").interval();
            let p = number("p_value")
                .map_or("-".into(), |p| if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") });
            vec![
                format!("Transformer − {}", test.at("model").text().unwrap_or("?")),
                number("difference").map_or("-".into(), |d| format!("{d:+.3}").replace('-', "−")),
                interval
                    .map_or("-".into(), |(low, high)| format!("{low:+.3} to {high:+.3}").replace('-', "−")),
                p,
                match (number("wins"), number("n")) {
                    (Some(wins), Some(n)) => format!("{wins:.0} of {n:.0}"),
                    _ => "-".into(),
                },
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads =
        ["Paired over documents", "Bits per byte", "95% interval", "p (one-sided)", "Better on documents"];
    format!("<div class=\"card\">{}</div>", table(&heads, &rows))
}

/// Recall by depth and length. `measure` is that of a cell, `total` of all cells together.
fn heat(model: Json, measure: &str, total: &str, title: &str, what: &str) -> Option<String> {
    let cells: Vec<Json> = model.at("needle.cells").items().collect();
    let axis = |key: &str| {
        let mut values: Vec<f64> = cells.iter().filter_map(|cell| cell.at(key).number()).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    };
    let (lengths, depths) = (axis("length"), axis("depth"));
    let cell = |depth: f64, length: f64| {
        let found = cells
            .iter()
            .find(|c| c.at("depth").number() == Some(depth) && c.at("length").number() == Some(length))?;
        let recall = found.at(measure);
        let (low, high) = recall.at("wilson").interval().unwrap_or((0.0, 1.0));
        let score = recall.at("score").number()?;
        let n = recall.at("n").number().unwrap_or(0.0);
        let tip = format!(
            "{length:.0} tokens, depth {}: {} of {n:.0} found (95% {} to {})",
            number::percent(depth),
            number::percent(score),
            number::percent(low),
            number::percent(high)
        );
        Some((score, tip))
    };
    let total = model.at("needle").at(total);
    let note = match (total.at("score").number(), total.at("wilson").interval(), total.at("n").number()) {
        (Some(score), Some((low, high)), Some(n)) => format!(
            "{what}; all: {} of {n:.0} (95% {} to {})",
            number::percent(score),
            number::percent(low),
            number::percent(high)
        ),
        _ => what.into(),
    };
    Heat {
        title: title.into(),
        note,
        x: "context length, tokens".into(),
        y: "depth".into(),
        columns: lengths.iter().map(|length| format!("{length:.0}")).collect(),
        rows: depths.iter().map(|depth| format!("{:.0}%", depth * 100.0)).collect(),
        cells: depths
            .iter()
            .map(|&depth| lengths.iter().map(|&length| cell(depth, length)).collect())
            .collect(),
    }
    .figure()
}

fn choices(models: &[(&str, Json)]) -> Option<String> {
    let mut rows: Vec<DotRow> = Vec::new();
    for (m, (model, results)) in models.iter().enumerate() {
        for task in results.at("choices").items() {
            let Some(name) = task.at("task").text() else { continue };
            let Some(dot) = dot(model, m, task.at("acc_norm"), "wilson") else { continue };
            match rows.iter_mut().find(|row| row.name == name.replace('_', " ")) {
                Some(row) => row.dots.push(dot),
                None => rows.push(DotRow {
                    name: name.replace('_', " "),
                    note: task.at("acc_norm.n").number().map_or(String::new(), |n| format!("N = {n:.0}")),
                    dots: vec![dot],
                    reference: task.at("chance").number(),
                }),
            }
        }
    }
    Dots {
        title: "Multiple choice".into(),
        note: "share right by likelihood per character (acc_norm); dashed: chance".into(),
        x: "right".into(),
        range: Some((0.0, 1.0)),
        percent: true,
        rows,
    }
    .figure()
}

/// The table of multiple choice: task, model, N, chance, then the scores with intervals.
fn choice_rows(folder: &Folder) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (model, results) in folder.evals() {
        for task in results.at("choices").items() {
            let share = |path: &str| task.at(path).number().map_or("-".into(), number::percent);
            let interval = |path: &str| {
                let ends = task.at(path).interval();
                ends.map_or("-".into(), |(low, high)| {
                    format!("{}-{}", number::percent(low), number::percent(high))
                })
            };
            rows.push(vec![
                task.at("task").text().unwrap_or("?").replace('_', " "),
                model.to_string(),
                task.at("acc.n").number().map_or("-".into(), number::whole),
                share("chance"),
                share("acc.score"),
                interval("acc.wilson"),
                share("acc_norm.score"),
                interval("acc_norm.wilson"),
                share("acc_bytes.score"),
            ]);
        }
    }
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    rows
}

/// Scores on held-out instructions, over all and for the most frequent kinds.
fn answers(
    models: &[(&str, Json)],
    measure: &str,
    interval: &str,
    title: &str,
    what: &str,
) -> Option<String> {
    let mut rows: Vec<DotRow> = Vec::new();
    let mut add = |model: &str, colour: usize, name: &str, score: Json| {
        let Some(dot) = dot(model, colour, score, interval) else { return };
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.dots.push(dot),
            None => {
                let note = score.at("n").number().map_or(String::new(), |n| format!("N = {n:.0}"));
                rows.push(DotRow { name: name.into(), note, dots: vec![dot], reference: None });
            }
        }
    };
    for (m, (model, results)) in models.iter().enumerate() {
        let instructions = results.at("instructions");
        add(model, m, "all", instructions.at(measure));
        for task in instructions.at("tasks").items().take(KINDS) {
            add(model, m, task.at("task").text().unwrap_or("?"), task.at(measure));
        }
    }
    Dots {
        title: title.into(),
        note: format!("held-out examples, greedy; {what}"),
        x: measure.into(),
        range: Some((0.0, 1.0)),
        percent: true,
        rows,
    }
    .figure()
}
