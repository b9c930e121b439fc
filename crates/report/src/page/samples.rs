//! Answers of the base and of the chat model to the same held-out prompts, side by side.

use super::absent;
use crate::folder::Folder;
use crate::html::{escape, shorten};
use crate::json::Json;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Prompts shown.
const SHOWN: usize = 8;

/// Characters shown of an answer.
const LENGTH: usize = 400;

/// A prompt with both answers.
pub struct Sample<'a> {
    /// The last user message.
    pub prompt: &'a str,
    /// The expected answer.
    pub expected: &'a str,
    /// The base model's answer.
    pub base: &'a str,
    /// The chat model's answer, if it was evaluated.
    pub chat: Option<&'a str>,
    /// Whether the chat model's answer is the expected one.
    pub right: bool,
}

/// Prompts of different tasks in turn, each task's in the order of the file.
pub fn samples(folder: &Folder) -> Vec<Sample<'_>> {
    let [base, chat] = &folder.answers;
    if base.is_empty() {
        return recipe_samples(folder);
    }
    let mut found: Vec<(&str, Sample)> = Vec::new();
    for line in base {
        let line = Json::new(Some(line));
        let Some(id) = line.at("id").number() else { continue };
        let twin = chat.iter().map(|l| Json::new(Some(l))).find(|l| l.at("id").number() == Some(id));
        let sample = Sample {
            prompt: line.at("prompt").text().unwrap_or(""),
            expected: line.at("expected").text().unwrap_or(""),
            base: line.at("answer").text().unwrap_or(""),
            chat: twin.and_then(|twin| twin.at("answer").text()),
            right: twin.and_then(|twin| twin.at("exact").value()?.as_bool()).unwrap_or(false),
        };
        found.push((line.at("task").text().unwrap_or(""), sample));
    }
    // One of each task before a second of any, right or wrong.
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, Sample)> = Vec::new();
    for (task, sample) in found {
        let count = seen.entry(task.split('/').next().unwrap_or(task)).or_default();
        ranked.push((*count, sample));
        *count += 1;
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, sample)| sample).collect()
}

/// The answers to the prompts that the recipe names, which alignment keeps.
pub fn recipe_samples(folder: &Folder) -> Vec<Sample<'_>> {
    folder
        .align()
        .at("samples")
        .items()
        .map(|sample| Sample {
            prompt: sample.at("prompt").text().unwrap_or(""),
            expected: "",
            base: sample.at("base").text().unwrap_or(""),
            chat: sample.at("chat").text(),
            right: false,
        })
        .collect()
}

pub fn body(folder: &Folder) -> String {
    let samples = samples(folder);
    if samples.is_empty() {
        return absent("The evaluation of the chat model", "herd eval");
    }
    let mut html = String::new();
    for sample in samples.iter().take(SHOWN) {
        let right = if sample.right { " <span class=\"right\">exact</span>" } else { "" };
        let _ = write!(
            html,
            "<div class=\"chat\"><div class=\"ask\"><small>Prompt</small>{}</div><div class=\"answers\">\
             <div class=\"before\"><small>Base model</small>{}</div><div><small>Chat model{right}</small>{}</div></div>\
             {}</div>",
            text(sample.prompt),
            text(sample.base),
            sample.chat.map_or("<i>not evaluated</i>".into(), text),
            expected(sample.expected),
        );
    }
    html.push_str("<p class=\"note\">Chosen by rule, not by taste: prompts of each kind in turn, in the order of the file. All are in <code>eval/MODEL/instructions.jsonl</code>.</p>");
    html
}

fn expected(answer: &str) -> String {
    if answer.is_empty() {
        return String::new();
    }
    format!("<div class=\"expected\">Expected: {}</div>", escape(&shorten(answer, LENGTH)))
}

fn text(answer: &str) -> String {
    if answer.trim().is_empty() { "<i>(nothing)</i>".into() } else { escape(&shorten(answer.trim(), LENGTH)) }
}
