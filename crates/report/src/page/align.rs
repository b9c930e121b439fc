//! Alignment: the reward model, rejection sampling, SFT loss, DPO margins and log-probabilities of the last round.

use super::pretrain::series;
use super::{absent, pair};
use crate::chart::{Line, Series};
use crate::folder::Folder;
use crate::html::{escape, facts};
use crate::json::Json;
use crate::number;
use serde_json::Value;

pub fn body(folder: &Folder) -> String {
    if !folder.align().exists() && folder.align_metrics.is_empty() {
        return absent("Alignment", "herd align");
    }
    let cards = [reward(folder.align()), sampling(folder.align()), sft(folder.align()), dpo(folder.align())];
    curves(folder) + &pair(cards)
}

fn curves(folder: &Folder) -> String {
    // The folders are named by round and part (`1-reward`); the last round is drawn.
    let metrics = |part: &str| -> &[Value] {
        let found = folder.align_metrics.iter().rev().find(|(name, _)| name.ends_with(part));
        found.map_or(&[], |(_, lines)| lines.as_slice())
    };
    let chart = |title: &str, note: &str, lines: &[(&str, usize, &[Value], &str)]| {
        let series = lines.iter().map(|&(name, colour, lines, metric)| {
            let points = series(lines, metric);
            let held_out = metric.starts_with("held_out");
            Series { name: name.into(), colour, points, smooth: !held_out, marks: held_out }
        });
        let series = series.collect();
        Line { title: title.into(), note: note.into(), x: "step".into(), series, ..Line::default() }
    };
    let (reward, sft, dpo) = (metrics("reward"), metrics("sft"), metrics("dpo"));
    let mut accuracy = chart(
        "Reward model: accuracy",
        "share of pairs ranked as annotated; edited > chosen > rejected, no margin",
        &[("training", 3, reward, "accuracy"), ("held-out", 0, reward, "held_out_accuracy")],
    );
    accuracy.reference = Some((0.5, "chance".into()));
    let loss = chart(
        "Supervised fine-tuning: loss",
        "nats per response token; prompts are masked",
        &[("training", 0, sft, "loss"), ("held-out", 1, sft, "held_out_loss")],
    );
    let mut margin = chart(
        "DPO: margin",
        "β × (log-ratio of chosen − log-ratio of rejected)",
        &[("training", 0, dpo, "margin"), ("held-out", 1, dpo, "held_out_margin")],
    );
    margin.zero = true;
    let logprobs = chart(
        "DPO: log-probabilities",
        "of whole responses under the policy, format tokens masked",
        &[
            ("chosen", 0, dpo, "logprob_chosen"),
            ("rejected", 1, dpo, "logprob_rejected"),
            ("chosen, held-out", 2, dpo, "held_out_logprob_chosen"),
            ("rejected, held-out", 5, dpo, "held_out_logprob_rejected"),
        ],
    );
    pair([accuracy.figure(), loss.figure()]) + &pair([margin.figure(), logprobs.figure()])
}

/// Facts read from a part of the summary.
struct Card<'a> {
    title: &'a str,
    part: Json<'a>,
    pairs: Vec<(&'a str, String)>,
}

impl<'a> Card<'a> {
    fn new(summary: Json<'a>, key: &str, title: &'a str) -> Self {
        Self { title, part: summary.at(key), pairs: Vec::new() }
    }

    fn add(mut self, name: &'a str, path: &str, show: impl Fn(f64) -> String) -> Self {
        if let Some(value) = self.part.at(path).number() {
            self.pairs.push((name, show(value)));
        }
        self
    }

    /// A value before and after: `-38.1 → -35.9`.
    fn change(mut self, name: &'a str, before: &str, after: &str) -> Self {
        if let (Some(before), Some(after)) = (self.part.at(before).number(), self.part.at(after).number()) {
            self.pairs
                .push((name, format!("{} → {}", number::significant(before), number::significant(after))));
        }
        self
    }

    fn html(self) -> Option<String> {
        let Self { title, pairs, .. } = self;
        let html = format!("<div class=\"card\"><h3>{}</h3>{}</div>", escape(title), facts(&pairs));
        (!pairs.is_empty()).then_some(html)
    }
}

fn reward(summary: Json) -> Option<String> {
    let card = Card::new(summary, "reward", "Reward model");
    let interval = card.part.at("accuracy.wilson").interval();
    let interval = interval
        .map_or(String::new(), |(l, h)| format!(" (95% {} to {})", number::percent(l), number::percent(h)));
    card.add("Accuracy on held-out pairs", "accuracy.score", |share| {
        format!("{}{interval}", number::percent(share))
    })
    .add("Held-out prompts", "accuracy.n", number::whole)
    .add("Prompts trained on", "prompts", number::whole)
    .add("Ordered pairs", "pairs", number::whole)
    .add("Left out: preference too weak", "too_weak", number::whole)
    .add("Left out: responses too alike", "too_similar", number::whole)
    .add("Steps", "steps", number::whole)
    .html()
}

fn sampling(summary: Json) -> Option<String> {
    Card::new(summary, "sampling", "Rejection sampling")
        .add("Prompts", "prompts", number::whole)
        .add("Samples of each, K", "samples_per_prompt", number::whole)
        .add("Ended by themselves", "ended", number::percent)
        .change("Reward: all samples → best of K", "mean_reward", "best_reward")
        .add("Reward of the data's answers", "reference_reward", number::significant)
        .add("Joined the SFT data", "kept", number::whole)
        .html()
}

fn sft(summary: Json) -> Option<String> {
    Card::new(summary, "sft", "Supervised fine-tuning")
        .add("Dialogs", "dialogs", number::whole)
        .add("Of them from rejection sampling", "sampled", number::whole)
        .change("Held-out loss: base → result", "base_held_out_loss", "held_out_loss")
        .add("Models averaged", "averaged", number::whole)
        .add("Steps", "steps", number::whole)
        .html()
}

fn dpo(summary: Json) -> Option<String> {
    Card::new(summary, "dpo", "Direct preference optimisation")
        .add("Pairs", "pairs", number::whole)
        .add("Held-out margin (0 before)", "held_out_margin", number::significant)
        .add("Held-out pairs with a positive margin", "held_out_accuracy", number::percent)
        .change("log p of chosen", "chosen_logprob_before", "chosen_logprob")
        .change("log p of rejected", "rejected_logprob_before", "rejected_logprob")
        .add("Steps", "steps", number::whole)
        .html()
}
