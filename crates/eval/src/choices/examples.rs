//! Examples from files: JSON Lines, one object a line.

use super::{Question, request};
use crate::Error;
use herd_run::atomic::{self, FileError};
use herd_tokenizer::Tokenizer;
use serde::Deserialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// Task; the file's name if absent.
    #[serde(default)]
    pub task: Option<String>,
    /// Name within the task; the line number if absent.
    #[serde(default)]
    pub id: Option<String>,
    /// What is given. It ends with the whitespace that stands before a choice, if any.
    pub context: String,
    /// At least two different choices.
    pub choices: Vec<String>,
    /// Index of the right one, from 0.
    pub answer: usize,
    /// How the question is put.
    #[serde(default)]
    pub style: Style,
    /// Where it comes from; not used.
    #[serde(default)]
    pub source: Option<String>,
}

/// How a question is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// The context continued by each choice.
    #[default]
    Cloze,
    /// The context, the choices as a lettered list, then `Answer:`; the letters are scored (as MMLU does).
    Letters,
}

/// Questions of a file, or of all `.jsonl` files of a folder in the order of their names.
///
/// # Errors
/// A file that cannot be read; a line that is not what the format asks for, with its number.
pub fn read(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Question>, Error> {
    let mut questions = Vec::new();
    for file in files(path)? {
        let text = atomic::read(&file)?;
        let stem = file.file_stem().map_or("examples".into(), |stem| stem.to_string_lossy().into_owned());
        for (line, bytes) in (1..).zip(text.split(|&b| b == b'\n')) {
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let wrong = |problem: String| Error::Example { path: file.clone(), line, problem };
            let example: Example = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
            check(&example).map_err(wrong)?;
            questions.push(question(example, &stem, line, tokenizer));
        }
    }
    Ok(questions)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(FileError::at("list", path))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(FileError::at("list", path))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    Ok(files)
}

fn check(example: &Example) -> Result<(), String> {
    let n = example.choices.len();
    if !(2..=26).contains(&n) {
        return Err(format!("{n} choices; an example needs 2 to 26"));
    }
    if example.answer >= n {
        return Err(format!("answer {} but the choices are numbered 0 to {}", example.answer, n - 1));
    }
    if example.context.trim().is_empty() {
        return Err("the context is empty; there is nothing to choose by".into());
    }
    for (i, choice) in example.choices.iter().enumerate() {
        if choice.trim().is_empty() {
            return Err(format!("choice {i} is empty"));
        }
        if example.choices[..i].contains(choice) {
            return Err(format!("choice {i} repeats an earlier one"));
        }
    }
    Ok(())
}

fn question(example: Example, stem: &str, line: usize, tokenizer: &Tokenizer) -> Question {
    let letter = |i: usize| char::from(b'A' + i as u8);
    let (context, choices) = match example.style {
        Style::Cloze => (example.context, example.choices),
        Style::Letters => {
            let mut context = example.context.trim_end().to_string();
            for (i, choice) in example.choices.iter().enumerate() {
                let _ = write!(context, "\n{}. {}", letter(i), choice.trim());
            }
            context.push_str("\nAnswer: ");
            (context, (0..example.choices.len()).map(|i| letter(i).to_string()).collect())
        }
    };
    Question {
        task: example.task.unwrap_or_else(|| stem.to_string()),
        id: example.id.unwrap_or_else(|| line.to_string()),
        request: request(tokenizer, &context, &choices),
        answer: example.answer,
        context,
        choices,
    }
}
