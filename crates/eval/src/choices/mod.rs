//! Multiple choice by likelihood, scored as lm-evaluation-harness does: the choice with the highest log-likelihood
//! (`acc`), with the highest per character (`acc_norm`), per byte (`acc_bytes`).

mod examples;
mod made;

pub use examples::{Example, Style, read};
pub use made::from_held_out;

use crate::Error;
use crate::interval::Proportion;
use crate::likelihood::{Request, Scorer};
use herd_run::Context;
use herd_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// A question ready to be scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Task it belongs to.
    pub task: String,
    /// Name of the example within its task.
    pub id: String,
    /// What the model is given, as text for the record.
    pub context: String,
    /// The choices as text; their lengths normalise `acc_norm` and `acc_bytes`.
    pub choices: Vec<String>,
    /// Which choice is right.
    pub answer: usize,
    /// What is scored.
    pub request: Request,
}

/// One example as answered: a line of `choices.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionRecord {
    /// Task.
    pub task: String,
    /// Name within the task.
    pub id: String,
    /// What the model was given.
    pub context: String,
    /// The choices.
    pub choices: Vec<String>,
    /// Which is right.
    pub answer: usize,
    /// Natural-log likelihood of each choice.
    pub logprobs: Vec<f64>,
    /// The likeliest choice is right.
    pub acc: bool,
    /// The likeliest per character is right.
    pub acc_norm: bool,
    /// The likeliest per byte is right.
    pub acc_bytes: bool,
}

/// Scores of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its name.
    pub task: String,
    /// Share expected from guessing: the mean of 1 / choices.
    pub chance: f64,
    /// By log-likelihood.
    pub acc: Proportion,
    /// By log-likelihood per character of the choice.
    pub acc_norm: Proportion,
    /// By log-likelihood per byte of the choice.
    pub acc_bytes: Proportion,
}

/// Scores all questions; tasks come in the order of their first question.
///
/// # Errors
/// A stop was asked for, or the model gives no numbers.
pub fn measure(
    questions: Vec<Question>,
    scorer: &Scorer,
    ctx: &Context,
) -> Result<(Vec<Task>, Vec<QuestionRecord>), Error> {
    let task = ctx.progress.task("choices", Some(questions.len() as u64), "questions");
    let requests = questions.iter().map(|q| q.request.clone()).collect();
    let scores = scorer.score(requests, ctx, |n| task.add(n))?;
    let records: Vec<_> = questions.into_iter().zip(scores).map(|(q, s)| record(q, s)).collect();
    let mut names: Vec<&str> = Vec::new();
    for record in &records {
        if !names.contains(&record.task.as_str()) {
            names.push(&record.task);
        }
    }
    let tasks = names
        .into_iter()
        .map(|name| {
            let of_task: Vec<&QuestionRecord> = records.iter().filter(|r| r.task == name).collect();
            let n = of_task.len();
            let share = |right: &dyn Fn(&QuestionRecord) -> bool| {
                Proportion::new(of_task.iter().filter(|r| right(r)).count(), n)
            };
            Task {
                task: name.to_string(),
                chance: of_task.iter().map(|r| 1.0 / r.choices.len() as f64).sum::<f64>() / n as f64,
                acc: share(&|r| r.acc),
                acc_norm: share(&|r| r.acc_norm),
                acc_bytes: share(&|r| r.acc_bytes),
            }
        })
        .collect();
    Ok((tasks, records))
}

fn record(question: Question, logprobs: Vec<f64>) -> QuestionRecord {
    let per = |size: &dyn Fn(&str) -> usize| {
        let normed: Vec<f64> =
            logprobs.iter().zip(&question.choices).map(|(l, c)| l / size(c).max(1) as f64).collect();
        best(&normed) == question.answer
    };
    QuestionRecord {
        acc: best(&logprobs) == question.answer,
        acc_norm: per(&|choice| choice.chars().count()),
        acc_bytes: per(&str::len),
        task: question.task,
        id: question.id,
        context: question.context,
        choices: question.choices,
        answer: question.answer,
        logprobs,
    }
}

/// Index of the largest value; the first among equals.
fn best(values: &[f64]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, value)| if *value > values[best] { i } else { best })
}

/// A prefix with `<|begin_of_text|>` and choices as tokens. Whitespace at the end of the context belongs to the
/// choices, since the split rule cuts before it: the tokens are then those of the whole text (as
/// lm-evaluation-harness pairs them).
fn request(tokenizer: &Tokenizer, context: &str, choices: &[String]) -> Request {
    let given = context.trim_end();
    let between = &context[given.len()..];
    let mut prefix = vec![tokenizer.specials().bos];
    tokenizer.encode_into(given, &mut prefix);
    let continuations =
        choices.iter().map(|choice| tokenizer.encode(&format!("{between}{choice}"))).collect();
    Request { prefix, continuations }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation_changes_the_winner_as_it_should() {
        let choices = ["a".to_string(), "ab".repeat(10), "é".repeat(12)].to_vec();
        let request = Request { prefix: vec![0], continuations: vec![] };
        let question = |answer| Question {
            task: "t".into(),
            id: "1".into(),
            context: String::new(),
            choices: choices.clone(),
            answer,
            request: request.clone(),
        };
        // Per character: -3, -1, -0.917; per byte: -3, -1, -1.375/3... the last has 24 bytes: -0.458.
        let logprobs = vec![-3.0, -20.0, -11.0];
        let first = record(question(0), logprobs.clone());
        assert!(first.acc && !first.acc_norm && !first.acc_bytes);
        let third = record(question(2), logprobs);
        assert!(!third.acc && third.acc_norm && third.acc_bytes);
        // 20 characters and bytes against 12 characters of 24 bytes: the two norms disagree.
        let mixed = record(question(1), vec![-9.0, -15.0, -10.0]);
        assert!(mixed.acc_norm && !mixed.acc_bytes);
        assert_eq!(best(&[1.0, 1.0]), 0);
    }
}
