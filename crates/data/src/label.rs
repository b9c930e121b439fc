//! Labels by a chat model (SPEC DATA-5): the model is given criteria and a document and says which label fits. Any
//! endpoint that speaks OpenAI's chat completions will do, `herd serve` too. What was paid for is written down at once,
//! so that a run that was stopped continues; a small classifier then learns from the labels.

mod endpoint;

pub use endpoint::{Endpoint, EndpointError};

use crate::documents::DocumentsError;
use crate::table;
use endpoint::Answer;
use herd_run::atomic::{self, FileError};
use herd_run::{Context, Interrupted, SettingError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Documents that are read together.
const BATCH: usize = 1024;

/// How documents are labelled.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the labels mean, for the model. A `{text}` in it stands for the document; without one it is sent first and
    /// the document after it.
    pub criteria: String,
    /// The labels to choose from.
    pub labels: Vec<String>,
    /// Requests at the same time.
    pub at_once: usize,
    /// Characters of a document that are sent.
    pub max_chars: usize,
    /// Price of a million tokens of prompts and of answers.
    pub prices: (f64, f64),
    /// Most that all requests may cost.
    pub max_cost: Option<f64>,
    /// The column of texts.
    pub text_column: String,
}

impl Settings {
    /// Checks what types cannot express; nothing is asked before.
    ///
    /// # Errors
    ///
    /// Empty criteria, fewer than two labels, a label that is empty or stands twice.
    pub fn validate(&self) -> Result<(), SettingError> {
        if self.criteria.trim().is_empty() {
            return Err(SettingError::new("criteria", "are empty; say what each label means"));
        }
        if self.labels.len() < 2 {
            return Err(SettingError::new("labels", "a model needs at least two to choose from"));
        }
        for (n, label) in self.labels.iter().enumerate() {
            if label.trim().is_empty() || self.labels[..n].contains(label) {
                return Err(SettingError::new("labels", format!("'{label}' is empty or stands twice")));
            }
        }
        Ok(())
    }
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Documents in the file.
    pub documents: u64,
    /// Documents with a label, those of earlier runs too.
    pub labelled: u64,
    /// Documents for which the model gave no label after all tries.
    pub failed: u64,
    /// Requests of this run, tries again included.
    pub requests: u64,
    /// Tokens of all prompts, those of earlier runs too.
    pub prompt_tokens: u64,
    /// Tokens of all answers, those of earlier runs too.
    pub completion_tokens: u64,
    /// What they cost.
    pub cost: f64,
    /// Documents by label.
    pub labels: BTreeMap<String, u64>,
}

/// Why labelling stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot work.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The documents cannot be read.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// The endpoint refuses in a way that trying again does not mend.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Labels of other criteria are there.
    #[error("{}: holds labels made with other criteria, labels or another model; delete it, or name another output", .0.display())]
    OtherCriteria(PathBuf),
    /// The money is spent.
    #[error(
        "{spent:.4} were spent, the limit is {limit}; what is labelled is kept, so continue with a greater limit"
    )]
    Spent {
        /// So far.
        spent: f64,
        /// Allowed.
        limit: f64,
    },
    /// No document has a label.
    #[error("none of {documents} documents was labelled; the last answer: {last}")]
    NoLabel {
        /// Documents asked about.
        documents: u64,
        /// What the model said.
        last: String,
    },
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// A line of the file of what was paid for.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    prompt_tokens: u64,
    completion_tokens: u64,
}

fn key(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_string()
}

/// Labels the documents of `input` (Parquet or JSON Lines) and writes `text` and `label` of each as JSON Lines to `out`,
/// in the order of the input. Equal texts are asked about once. What was paid for stands in `out` with `.part` added
/// until then.
pub fn label(
    input: &Path,
    out: &Path,
    endpoint: &Endpoint,
    settings: &Settings,
    ctx: &Context,
) -> Result<Summary, Error> {
    settings.validate()?;
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = out.with_file_name(name);
    let identity = key(&format!("{}\n{:?}\n{}", settings.criteria, settings.labels, endpoint.model));
    let mut work = Work::open(&part, &identity, endpoint, settings)?;
    let columns = [settings.text_column.clone()];
    let progress = ctx.progress.task("label", None, "documents");
    let (mut batch, mut documents) = (Vec::new(), 0);
    let mut rows = table::open(input, Some(&columns))?;
    loop {
        let row = rows.next().transpose()?;
        let is_end = row.is_none();
        if let Some(mut row) = row {
            documents += 1;
            let Some(Value::String(text)) = row.remove(&settings.text_column) else {
                let problem = format!("holds no text in row {documents}");
                return Err(DocumentsError::column(input, &settings.text_column, problem).into());
            };
            if !work.labels.contains_key(&key(&text)) {
                batch.push(text);
            }
            progress.add(1);
        }
        if batch.len() >= BATCH || (is_end && !batch.is_empty()) {
            work.ask(std::mem::take(&mut batch), ctx)?;
        }
        if is_end {
            break;
        }
    }
    finish(input, out, documents, work)
}

/// Writes the labels in the order of the documents and forgets the part.
fn finish(input: &Path, out: &Path, documents: u64, work: Work) -> Result<Summary, Error> {
    let mut summary = Summary { documents, ..work.summary };
    let column = &work.settings.text_column;
    let write = |file: &mut std::io::BufWriter<File>, summary: &mut Summary| {
        for row in table::open(input, Some(std::slice::from_ref(column)))? {
            let row = row?;
            let text = row.get(column).and_then(Value::as_str).unwrap_or_default();
            match work.labels.get(&key(text)) {
                Some(label) => {
                    summary.labelled += 1;
                    *summary.labels.entry(label.clone()).or_default() += 1;
                    let line = serde_json::json!({ "text": text, "label": label });
                    writeln!(file, "{line}").map_err(FileError::at("write", out))?;
                }
                None => summary.failed += 1,
            }
        }
        Ok::<_, Error>(())
    };
    atomic::create(out, |file| {
        write(file, &mut summary)?;
        match summary.labelled {
            0 => Err(Error::NoLabel { documents, last: work.last_failure.clone() }),
            _ => Ok(()),
        }
    })?;
    // Documents without a label are asked about again next time.
    if summary.failed == 0 {
        std::fs::remove_file(&work.part).map_err(FileError::at("remove", &work.part))?;
    }
    Ok(summary)
}

/// Labels so far, and the file that keeps them.
struct Work<'a> {
    endpoint: &'a Endpoint,
    settings: &'a Settings,
    part: PathBuf,
    file: File,
    labels: BTreeMap<String, String>,
    summary: Summary,
    last_failure: String,
}

impl<'a> Work<'a> {
    fn open(
        part: &Path,
        identity: &str,
        endpoint: &'a Endpoint,
        settings: &'a Settings,
    ) -> Result<Self, Error> {
        let mut labels = BTreeMap::new();
        let mut summary = Summary::default();
        let mut whole = 0u64;
        if part.exists() {
            let mut reader = BufReader::new(File::open(part).map_err(FileError::at("read", part))?);
            let mut line = String::new();
            loop {
                line.clear();
                let read = reader.read_line(&mut line).map_err(FileError::at("read", part))? as u64;
                // A line that was cut off by a kill is asked about again.
                if read == 0 || !line.ends_with('\n') {
                    break;
                }
                if whole == 0 {
                    if line.trim() != identity {
                        return Err(Error::OtherCriteria(part.to_path_buf()));
                    }
                } else if let Ok(record) = serde_json::from_str::<Record>(&line) {
                    summary.prompt_tokens += record.prompt_tokens;
                    summary.completion_tokens += record.completion_tokens;
                    if let Some(label) = record.label {
                        labels.insert(record.key, label);
                    }
                }
                whole += read;
            }
        } else if let Some(folder) = part.parent() {
            std::fs::create_dir_all(folder).map_err(FileError::at("create", folder))?;
        }
        let mut file =
            OpenOptions::new().create(true).append(true).open(part).map_err(FileError::at("write", part))?;
        file.set_len(whole).map_err(FileError::at("write", part))?;
        if whole == 0 {
            writeln!(file, "{identity}").map_err(FileError::at("write", part))?;
        }
        let part = part.to_path_buf();
        let mut work = Self { endpoint, settings, part, file, labels, summary, last_failure: String::new() };
        work.summary.cost = work.cost();
        Ok(work)
    }

    fn cost(&self) -> f64 {
        let (prompt, completion) = self.settings.prices;
        let tokens = &self.summary;
        (tokens.prompt_tokens as f64 * prompt + tokens.completion_tokens as f64 * completion) / 1e6
    }

    /// Asks about texts, several at a time; writes each answer down when it comes.
    fn ask(&mut self, mut texts: Vec<String>, ctx: &Context) -> Result<(), Error> {
        texts.sort_unstable();
        texts.dedup();
        let (endpoint, settings) = (self.endpoint, self.settings);
        let (next, agent) = (AtomicUsize::new(0), endpoint.agent());
        let shared = Mutex::new((self, None::<Error>));
        std::thread::scope(|scope| {
            for _ in 0..settings.at_once.clamp(1, texts.len().max(1)) {
                scope.spawn(|| {
                    while let Some(text) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let failed = |shared: &Mutex<(&mut Self, Option<Error>)>, error: Error| {
                            if let Ok(mut state) = shared.lock() {
                                state.1.get_or_insert(error);
                            }
                        };
                        if shared.lock().map_or(true, |state| state.1.is_some()) {
                            return;
                        }
                        if let Err(stop) = ctx.stop.check() {
                            return failed(&shared, stop.into());
                        }
                        match endpoint.ask(
                            &agent,
                            &settings.criteria,
                            &settings.labels,
                            cut(text, settings.max_chars),
                            &ctx.stop,
                        ) {
                            Ok(answer) => {
                                let noted = shared.lock().map(|mut state| state.0.note(text, answer));
                                if let Ok(Err(error)) = noted {
                                    return failed(&shared, error);
                                }
                            }
                            Err(error) => return failed(&shared, error),
                        }
                    }
                });
            }
        });
        match shared.into_inner() {
            Ok((_, Some(error))) => Err(error),
            _ => Ok(()),
        }
    }

    fn note(&mut self, text: &str, answer: Answer) -> Result<(), Error> {
        self.summary.requests += answer.requests;
        self.summary.prompt_tokens += answer.prompt_tokens;
        self.summary.completion_tokens += answer.completion_tokens;
        self.summary.cost = self.cost();
        let record = Record {
            key: key(text),
            label: answer.label.clone(),
            prompt_tokens: answer.prompt_tokens,
            completion_tokens: answer.completion_tokens,
        };
        let line = serde_json::to_string(&record).unwrap_or_default();
        writeln!(self.file, "{line}").map_err(FileError::at("write", &self.part))?;
        match answer.label {
            Some(label) => drop(self.labels.insert(record.key, label)),
            None => self.last_failure = answer.said,
        }
        match self.settings.max_cost {
            Some(limit) if self.summary.cost > limit => Err(Error::Spent { spent: self.summary.cost, limit }),
            _ => Ok(()),
        }
    }
}

/// The first `limit` characters.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.char_indices().nth(limit).map_or(text.len(), |(at, _)| at)]
}
