//! The line of `herd chat`: arrows, search (Ctrl-R), several lines, and what was typed in earlier conversations.

use herd_infer::{CHAT_COMMANDS, Questions, goes_on, whole_question};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, Config, Editor, Helper, KeyCode, KeyEvent, Modifiers};
use std::io;
use std::path::PathBuf;

/// Lines that are remembered.
const REMEMBERED: usize = 1000;

/// Reads questions from a terminal.
pub struct LineEditor {
    editor: Editor<Chat, DefaultHistory>,
    /// Where lines are remembered, if there is a place for it.
    history: Option<PathBuf>,
}

impl LineEditor {
    /// An editor that knows the lines of earlier conversations.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn new() -> io::Result<Self> {
        let config = Config::builder().max_history_size(REMEMBERED).map_err(terminal)?;
        let config = config.history_ignore_space(true).auto_add_history(true).build();
        let mut editor = Editor::with_config(config).map_err(terminal)?;
        editor.set_helper(Some(Chat));
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        let history = history_file();
        if let Some(path) = &history {
            // There is none before the first conversation.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }
}

impl Questions for LineEditor {
    fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            match self.editor.readline("> ") {
                Ok(text) => return Ok(Some(whole_question(&text))),
                // Ctrl-C drops the line.
                Err(ReadlineError::Interrupted) => println!("(Ctrl-D or /quit leaves)"),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(terminal(error)),
            }
        }
    }
}

impl Drop for LineEditor {
    fn drop(&mut self) {
        let Some(path) = &self.history else { return };
        let saved = path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(ReadlineError::Io);
        if let Err(error) = saved.and_then(|()| self.editor.save_history(path)) {
            eprintln!("herd: {}: what was typed is not remembered: {error}", path.display());
        }
    }
}

fn terminal(error: ReadlineError) -> io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// `$XDG_STATE_HOME/herd/chat_history`, as the XDG base directories say.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(state.join("herd/chat_history"))
}

/// What the editor knows of a conversation.
struct Chat;

impl Helper for Chat {}

impl Highlighter for Chat {}

impl Hinter for Chat {
    type Hint = String;
}

impl Completer for Chat {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = &line[..at];
        let fits = CHAT_COMMANDS.iter().filter(|c| begun.starts_with('/') && c.starts_with(begun));
        Ok((0, fits.map(|c| c.to_string()).collect()))
    }
}

impl Validator for Chat {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if goes_on(context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}
