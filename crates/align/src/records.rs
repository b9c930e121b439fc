//! The JSONL files of alignment data (format: `examples/quickstart/alignment/README.md`), checked record by record.

use crate::Error;
use herd_run::atomic;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// Who speaks in a message (SPEC POST-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets style and rules; only the first message.
    System,
    /// The human.
    User,
    /// The model.
    Assistant,
    /// The output of a tool.
    Ipython,
}

/// One message of a dialog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// A dialog for supervised fine-tuning; every assistant message is trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instruction {
    /// The dialog; the last message is the assistant's.
    pub messages: Vec<Message>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it exercises; `sft.repeat` up-samples by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// By how much the chosen response is better (SPEC POST-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// The weakest; not trained on.
    MarginallyBetter,
    /// Not trained on.
    SlightlyBetter,
    /// Trained on.
    Better,
    /// The strongest.
    SignificantlyBetter,
}

impl Strength {
    /// Whether the reward model and DPO use it: only the two strongest.
    pub fn is_used(self) -> bool {
        self >= Strength::Better
    }
}

/// Two or three ranked responses to a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// The dialog so far; the last message is not the assistant's.
    pub prompt: Vec<Message>,
    /// The better response.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
    /// The chosen response improved: edited > chosen > rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<String>,
    /// By how much chosen is better than rejected.
    pub strength: Strength,
    /// The round of post-training it was collected in, from 1.
    #[serde(default = "first_round")]
    pub round: u32,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it exercises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// What is wrong with the rejected response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defect: Option<String>,
}

fn first_round() -> u32 {
    1
}

/// Records of one file, each with its line for later errors.
#[derive(Debug, Clone)]
pub struct Records<R> {
    /// The file.
    pub file: PathBuf,
    /// `(line from 1, record)`.
    pub records: Vec<(usize, R)>,
}

impl<R> Records<R> {
    /// An error at a line of this file.
    pub(crate) fn error(&self, line: usize, problem: impl Into<String>) -> Error {
        Error::Record { file: self.file.clone(), line, problem: problem.into() }
    }
}

/// The four files of a folder of alignment data.
#[derive(Debug, Clone)]
pub struct AlignmentData {
    /// `instructions.jsonl`
    pub instructions: Records<Instruction>,
    /// `instructions.held_out.jsonl`
    pub held_out_instructions: Records<Instruction>,
    /// `preferences.jsonl`
    pub preferences: Records<Preference>,
    /// `preferences.held_out.jsonl`
    pub held_out_preferences: Records<Preference>,
}

impl AlignmentData {
    /// Reads and checks all four files of `folder`.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        Ok(Self {
            instructions: read(&folder.join("instructions.jsonl"), check_instruction)?,
            held_out_instructions: read(&folder.join("instructions.held_out.jsonl"), check_instruction)?,
            preferences: read(&folder.join("preferences.jsonl"), check_preference)?,
            held_out_preferences: read(&folder.join("preferences.held_out.jsonl"), check_preference)?,
        })
    }
}

/// Reads a JSONL file; blank lines are skipped. `check` says what is wrong with a record.
fn read<R: DeserializeOwned>(
    file: &Path,
    check: impl Fn(&R) -> Result<(), String>,
) -> Result<Records<R>, Error> {
    let bytes = atomic::read(file)?;
    let at = |line: usize, problem: String| Error::Record { file: file.to_path_buf(), line, problem };
    let mut records = Vec::new();
    for (index, bytes) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(bytes).map_err(|e| {
            at(line, format!("byte {} is not UTF-8; save the file as UTF-8", e.valid_up_to() + 1))
        })?;
        if text.trim().is_empty() {
            continue;
        }
        let record: R = serde_json::from_str(text).map_err(|e| at(line, explain(&e)))?;
        check(&record).map_err(|problem| at(line, problem))?;
        records.push((line, record));
    }
    if records.is_empty() {
        let problem =
            "holds no record; see the format in examples/quickstart/alignment/README.md".to_string();
        return Err(Error::Empty { file: file.to_path_buf(), problem });
    }
    Ok(Records { file: file.to_path_buf(), records })
}

/// The message of a JSON error with its column; its line number counts from the record and would mislead.
fn explain(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let remedy = match error.classify() {
        serde_json::error::Category::Eof => " (one record must be on one line)",
        serde_json::error::Category::Syntax => " (write one JSON object on each line)",
        _ => "",
    };
    format!("column {}: {message}{remedy}", error.column())
}

fn check_messages(messages: &[Message]) -> Result<(), String> {
    for (n, message) in messages.iter().enumerate() {
        let n = n + 1;
        if message.content.trim().is_empty() {
            return Err(format!("message {n} is empty; write its content or remove the record"));
        }
        if message.role == Role::System && n > 1 {
            return Err(format!("message {n} has the role `system`, which only the first may have"));
        }
    }
    Ok(())
}

fn check_instruction(record: &Instruction) -> Result<(), String> {
    check_messages(&record.messages)?;
    match record.messages.as_slice() {
        [.., before, last] if last.role == Role::Assistant && before.role != Role::Assistant => Ok(()),
        [.., _, last] if last.role == Role::Assistant => {
            Err("two assistant messages follow each other at the end; join them into one".into())
        }
        _ => Err("a dialog needs a user message and must end with the assistant's answer".into()),
    }
}

fn check_preference(record: &Preference) -> Result<(), String> {
    check_messages(&record.prompt)?;
    match record.prompt.last() {
        Some(last) if matches!(last.role, Role::User | Role::Ipython) => {}
        _ => {
            return Err(
                "`prompt` must end with a message of `user` or `ipython`; the responses come after it".into(),
            );
        }
    }
    let edited = record.edited.as_deref();
    for (name, text) in
        [("chosen", Some(&*record.chosen)), ("rejected", Some(&*record.rejected)), ("edited", edited)]
    {
        if text.is_some_and(|t| t.trim().is_empty()) {
            return Err(format!("`{name}` is empty; write a response or remove the record"));
        }
    }
    if record.chosen == record.rejected {
        return Err("`chosen` and `rejected` are the same; no preference can be learned from them".into());
    }
    if edited.is_some_and(|e| e == record.chosen || e == record.rejected) {
        return Err("`edited` repeats another response; leave it out".into());
    }
    if record.round == 0 {
        return Err("`round` counts from 1".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"prompt": [{"role": "user", "content": "Hi"}], "chosen": "Hello!", "rejected": "No.", "strength": "better"}"#;

    fn error(lines: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("preferences.jsonl");
        std::fs::write(&file, lines).unwrap();
        let message = read(&file, check_preference).unwrap_err().to_string();
        assert!(message.contains("preferences.jsonl"), "{message}");
        message
    }

    #[test]
    fn a_good_record_has_its_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.jsonl");
        std::fs::write(&file, format!("\n{GOOD}\n")).unwrap();
        let records: Records<Preference> = read(&file, check_preference).unwrap();
        assert_eq!(records.records.len(), 1);
        assert_eq!((records.records[0].0, records.records[0].1.round), (2, 1));
    }

    #[test]
    fn each_error_names_file_line_and_remedy() {
        let second = |bad: String| error(&format!("{GOOD}\n{bad}\n"));
        let unknown = second(GOOD.replace("better", "much_better"));
        assert!(unknown.contains(":2: column") && unknown.contains("`much_better`"), "{unknown}");
        assert!(unknown.contains("`significantly_better`"), "lists the valid ones: {unknown}");
        assert!(second(GOOD[..50].into()).contains(":2: column 50: EOF"));
        assert!(second(GOOD.replace("Hello!", " ")).contains("`chosen` is empty"));
        assert!(second(GOOD.replace("No.", "Hello!")).contains("the same"));
        assert!(
            second(GOOD.replace("\"user\"", "\"assistant\"")).contains("must end with a message of `user`")
        );
        assert!(second(GOOD.replace("\"user\"", "\"human\"")).contains("expected one of `system`"));
        assert!(second(GOOD.replace("\"chosen\"", "\"choosen\"")).contains("unknown field `choosen`"));
        assert!(second("nonsense".into()).contains("one JSON object on each line"));
        assert!(error("\n\n").contains("holds no record"));
    }

    #[test]
    fn an_instruction_must_end_with_an_answer() {
        let say = |roles: &[Role]| Instruction {
            messages: roles.iter().map(|&r| Message::new(r, "text")).collect(),
            source: None,
            task: None,
        };
        assert!(check_instruction(&say(&[Role::System, Role::User, Role::Assistant])).is_ok());
        assert!(check_instruction(&say(&[Role::User])).is_err());
        assert!(check_instruction(&say(&[Role::User, Role::System, Role::Assistant])).is_err());
        assert!(check_instruction(&say(&[Role::User, Role::Assistant, Role::Assistant])).is_err());
        assert!(check_instruction(&say(&[])).is_err());
    }

    #[test]
    fn the_quickstart_data_is_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart/alignment");
        let data = AlignmentData::load(&folder).unwrap();
        assert!(data.instructions.records.len() > 2000 && data.preferences.records.len() > 1500);
        let edited = data.preferences.records.iter().filter(|(_, p)| p.edited.is_some()).count();
        assert!(edited > 100, "{edited} triples");
        // No held-out prompt was trained on.
        let prompt = |i: &Instruction| i.messages[..i.messages.len() - 1].to_vec();
        let trained: Vec<_> = data.instructions.records.iter().map(|(_, i)| prompt(i)).collect();
        assert!(data.held_out_instructions.records.iter().all(|(_, i)| !trained.contains(&prompt(i))));
        let ranked: Vec<_> = data.preferences.records.iter().map(|(_, p)| &p.prompt).collect();
        assert!(data.held_out_preferences.records.iter().all(|(_, p)| !ranked.contains(&&p.prompt)));
    }
}
