//! Held-out instructions answered greedily: exact match, and the overlap of words (F1, as SQuAD counts it).

use crate::interval::{self, Proportion, Ratio};
use crate::{Error, Settings};
use herd_infer::{Generator, Sampling};
use herd_run::Random;
use herd_run::{Context, atomic};
use herd_tokenizer::chat::{Message, Role, encode_dialog};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One line of a file of dialogs (the format of alignment).
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Dialog {
    messages: Vec<Message>,
    #[serde(default)]
    task: Option<String>,
}

/// One answer: a line of `instructions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// Line of the example in its file, from 1.
    pub id: usize,
    /// What the example exercises.
    pub task: String,
    /// The last message before the answer.
    pub prompt: String,
    /// All messages before the answer.
    pub messages: Vec<Message>,
    /// The answer of the file.
    pub expected: String,
    /// The model's answer.
    pub answer: String,
    /// Equal but for whitespace at the ends.
    pub exact: bool,
    /// Harmonic mean of precision and recall over words, case and punctuation aside.
    pub f1: f64,
}

/// Scores of one kind of example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// The kind: the part of the task's name before `/`.
    pub task: String,
    /// Share of exact answers.
    pub exact: Proportion,
    /// Mean F1.
    pub f1: Ratio,
}

/// Scores over all examples and by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instructions {
    /// Share of exact answers.
    pub exact: Proportion,
    /// Mean F1, bootstrap over examples.
    pub f1: Ratio,
    /// By kind, the most frequent first.
    pub tasks: Vec<TaskScore>,
}

/// An example ready to be asked.
struct Prompt {
    id: usize,
    task: String,
    messages: Vec<Message>,
    expected: String,
    tokens: Vec<u32>,
}

/// Asks the model and scores its answers.
///
/// # Errors
/// A stop was asked for; a file that cannot be read or a line that is no dialog; a prompt that the model cannot take.
pub fn measure(
    settings: &Settings,
    file: &Path,
    generator: &Generator,
    ctx: &Context,
) -> Result<(Instructions, Vec<AnswerRecord>), Error> {
    let prompts = prompts(settings, file, generator)?;
    let sampling =
        Sampling { temperature: 0.0, max_tokens: settings.instructions.max_tokens, ..Sampling::default() };
    let task = ctx.progress.task("instructions", Some(prompts.len() as u64), "answers");
    let tokens: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
    let answers = generator.generate_with(&tokens, 1, &sampling, &ctx.stop, |_| task.add(1));
    let answers = answers.map_err(|error| match error {
        herd_infer::Error::Interrupted(stopped) => Error::Interrupted(stopped),
        other => Error::Infer(other),
    })?;
    let records: Vec<AnswerRecord> = prompts
        .into_iter()
        .zip(answers)
        .map(|(prompt, mut samples)| {
            let answer = samples.pop().map(|completion| completion.text).unwrap_or_default();
            AnswerRecord {
                id: prompt.id,
                task: prompt.task,
                prompt: prompt.messages.last().map(|m| m.content.clone()).unwrap_or_default(),
                messages: prompt.messages,
                exact: answer.trim() == prompt.expected.trim(),
                f1: f1(&answer, &prompt.expected),
                expected: prompt.expected,
                answer,
            }
        })
        .collect();
    Ok((summarise(&records, settings.seed), records))
}

/// Examples drawn by the seed, in the order of the file. Prompts that leave no room for an answer are left out.
fn prompts(settings: &Settings, file: &Path, generator: &Generator) -> Result<Vec<Prompt>, Error> {
    let limits = &settings.instructions;
    let text = atomic::read(file)?;
    let mut prompts = Vec::new();
    for (line, bytes) in (1..).zip(text.split(|&b| b == b'\n')) {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |problem: String| Error::Example { path: file.to_path_buf(), line, problem };
        let dialog: Dialog = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        let mut messages = dialog.messages;
        let last = messages.pop().filter(|last| last.role == Role::Assistant && !messages.is_empty());
        let expected = last
            .ok_or_else(|| wrong("a dialog needs a message and, last, the assistant's answer".into()))?
            .content;
        let tokens = encode_dialog(generator.tokenizer(), &messages, true)?.tokens;
        if tokens.len() + limits.max_tokens <= generator.context() {
            let task = dialog.task.unwrap_or_else(|| "other".into());
            prompts.push(Prompt { id: line, task, messages, expected, tokens });
        }
    }
    let mut chosen = Random::new(settings.seed, &[]).named("instructions").order(prompts.len());
    chosen.truncate(limits.examples);
    let mut keep = vec![false; prompts.len()];
    chosen.into_iter().for_each(|i| keep[i] = true);
    let mut keep = keep.into_iter();
    prompts.retain(|_| keep.next().unwrap_or(false));
    Ok(prompts)
}

fn summarise(records: &[AnswerRecord], seed: u64) -> Instructions {
    let kind = |record: &AnswerRecord| record.task.split('/').next().unwrap_or_default().to_string();
    let score = |records: &[&AnswerRecord]| {
        let exact = Proportion::new(records.iter().filter(|r| r.exact).count(), records.len());
        let pairs: Vec<_> = records.iter().map(|r| (r.f1, 1.0)).collect();
        (exact, interval::ratio(&pairs, seed))
    };
    let mut kinds: Vec<String> = records.iter().map(kind).collect();
    kinds.sort();
    kinds.dedup();
    let mut tasks: Vec<TaskScore> = kinds
        .into_iter()
        .map(|task| {
            let (exact, f1) = score(&records.iter().filter(|r| kind(r) == task).collect::<Vec<_>>());
            TaskScore { task, exact, f1 }
        })
        .collect();
    tasks.sort_by(|a, b| b.exact.n.cmp(&a.exact.n).then_with(|| a.task.cmp(&b.task)));
    let (exact, f1) = score(&records.iter().collect::<Vec<_>>());
    Instructions { exact, f1, tasks }
}

/// Overlap of words with their multiplicities; 1 if both texts have no word.
fn f1(answer: &str, expected: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let mut words: Vec<String> = text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        words.sort();
        words
    };
    let (answer, expected) = (words(answer), words(expected));
    if answer.is_empty() && expected.is_empty() {
        return 1.0;
    }
    let (mut i, mut j, mut common) = (0, 0, 0);
    while i < answer.len() && j < expected.len() {
        match answer[i].cmp(&expected[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, common) = (i + 1, j + 1, common + 1),
        }
    }
    2.0 * f64::from(common) / (answer.len() + expected.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_counts_words_with_multiplicity() {
        assert_eq!(f1("7 + 4 = 11", "7 + 4 = 11."), 1.0);
        assert_eq!(f1("the the cat", "The cat"), 0.8);
        assert_eq!(f1("", "x"), 0.0);
        assert_eq!(f1("?", "!"), 1.0);
    }

    #[test]
    fn kinds_are_counted_by_the_first_part_of_the_task() {
        let record = |task: &str, exact| AnswerRecord {
            id: 1,
            task: task.into(),
            prompt: String::new(),
            messages: vec![],
            expected: String::new(),
            answer: String::new(),
            exact,
            f1: f64::from(u8::from(exact)),
        };
        let records = [record("words/upper", true), record("words/lower", false), record("term", true)];
        let scores = summarise(&records, 1);
        assert_eq!((scores.exact.right, scores.exact.n), (2, 3));
        assert_eq!(scores.tasks[0].task, "words");
        assert_eq!(scores.tasks[0].f1.score, 0.5);
    }
}
