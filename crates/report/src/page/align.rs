//! Alignment: the reward model, rejection sampling, SFT loss, DPO margins and log-probabilities.

use super::pretrain::series;
use super::{absent, pair};
use crate::chart::{Line, Series};
use crate::folder::Folder;
use crate::html::facts;
use crate::json::Json;
use crate::number;
use serde_json::Value;
use std::fmt::Write;

pub fn body(folder: &Folder) -> String {
    if !folder.align().exists() && folder.align_metrics.is_empty() {
        return absent("Alignment", "herd align");
    }
    let metrics = |part: &str| -> Vec<Value> {
        let of_part = |(name, _): &&(String, Vec<Value>)| name.contains(part);
        match folder.align_metrics.iter().find(of_part) {
            Some((_, lines)) => lines.clone(),
            // One file for all parts: names carry the part (`sft/loss`).
            None => folder
                .align_metrics
                .iter()
                .flat_map(|(_, lines)| lines)
                .filter(|line| line.as_object().is_some_and(|o| o.keys().any(|k| k.starts_with(part))))
                .cloned()
                .collect(),
        }
    };
    let (reward, sft, dpo) = (metrics("reward"), metrics("sft"), metrics("dpo"));
    let chart = |title: &str, note: &str, lines: Vec<(&str, usize, Vec<(f64, f64)>)>, smooth: bool| {
        let series = lines
            .into_iter()
            .map(|(name, colour, points)| Series { name: name.into(), colour, points, smooth, marks: false })
            .collect();
        Line { title: title.into(), note: note.into(), x: "step".into(), series, ..Line::default() }
    };
    let mut accuracy = chart(
        "Reward model: accuracy",
        "share of pairs ranked as annotated",
        vec![
            ("training pairs", 3, series(&reward, &["accuracy", "train_accuracy"])),
            ("held-out pairs", 0, series(&reward, &["held_out_accuracy", "validation_accuracy"])),
        ],
        true,
    );
    accuracy.reference = Some((0.5, "chance".into()));
    let sft_loss = chart(
        "Supervised fine-tuning: loss",
        "nats per response token, prompts masked",
        vec![
            ("training", 0, series(&sft, &["loss"])),
            ("held-out", 1, series(&sft, &["held_out_loss", "validation_loss"])),
        ],
        true,
    );
    let margins = chart(
        "DPO: reward margin",
        "β × (log-ratio of chosen − log-ratio of rejected)",
        vec![("margin", 0, series(&dpo, &["margin", "reward_margin", "margins"]))],
        true,
    );
    let logprobs = chart(
        "DPO: log-probabilities",
        "of whole responses under the policy, mean of the batch",
        vec![
            ("chosen", 0, series(&dpo, &["chosen_logprob", "logprob_chosen", "logps_chosen", "chosen_logp"])),
            (
                "rejected",
                1,
                series(&dpo, &["rejected_logprob", "logprob_rejected", "logps_rejected", "rejected_logp"]),
            ),
        ],
        true,
    );
    let mut html = pair([accuracy.figure(), sft_loss.figure()]);
    html.push_str(&pair([margins.figure(), logprobs.figure()]));
    for (name, part) in folder.align().entries() {
        html.push_str(&card(name, part));
    }
    let loose: Vec<(String, String)> = scalars(folder.align());
    if !loose.is_empty() {
        html.push_str(&list("Alignment", &loose));
    }
    html
}

fn card(name: &str, part: Json) -> String {
    let pairs = scalars(part);
    if pairs.is_empty() { String::new() } else { list(&name.replace('_', " "), &pairs) }
}

fn list(title: &str, pairs: &[(String, String)]) -> String {
    let pairs: Vec<(&str, String)> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let mut html = String::new();
    let _ =
        write!(html, "<div class=\"card\"><h3>{}</h3>{}</div>", crate::html::escape(title), facts(&pairs));
    html
}

/// The scalars of an object, and scores with intervals in one line.
fn scalars(part: Json) -> Vec<(String, String)> {
    part.entries()
        .filter_map(|(name, value)| {
            let title = name.replace('_', " ");
            if let Some(score) = value.at("score").number() {
                let interval = value.any(&["wilson", "interval"]).interval();
                let interval = interval.map_or(String::new(), |(l, h)| {
                    format!(" ({}-{})", number::percent(l), number::percent(h))
                });
                return Some((title, format!("{}{interval}", number::percent(score))));
            }
            let shown = match value.number() {
                Some(share) if name.ends_with("accuracy") => number::percent(share),
                Some(seconds) if name.ends_with("seconds") => number::duration(seconds),
                _ => value.show()?,
            };
            Some((title, shown))
        })
        .collect()
}
