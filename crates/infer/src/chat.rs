//! A conversation in the terminal, or through a pipe.

use crate::request::{Event, Request};
use crate::sampling::Sampling;
use crate::{Batcher, Error, Generator};
use herd_run::{Context, Stop};
use herd_tokenizer::chat::{Message, Role, encode_dialog};
use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// What a conversation begins with.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// Instructions that stand before the conversation.
    pub system: Option<String>,
    /// How answers are drawn; `max_tokens` bounds each.
    pub sampling: Sampling,
    /// Whether a person types: shows a greeting, and Ctrl-C stops an answer. False for a pipe.
    pub interactive: bool,
}

const HELP: &str = "\
/system TEXT  set the system prompt and begin anew (without TEXT: show it)
/retry        answer the last question again, otherwise
/reset        begin anew
/save FILE    write the conversation as JSON, in a folder that exists
/help         this list
/quit         leave (as does Ctrl-D)
A line that ends with \\ goes on in the next line, and \"\"\" begins and ends a text of several lines.
Ctrl-C stops an answer.";

/// Commands of a conversation.
pub const CHAT_COMMANDS: [&str; 6] = ["/system", "/retry", "/reset", "/save", "/help", "/quit"];

/// Where the questions of a conversation come from.
pub trait Questions {
    /// The next question, of one or several lines; `None` at the end of input.
    ///
    /// # Errors
    /// A broken terminal or pipe.
    fn next(&mut self) -> std::io::Result<Option<String>>;
}

/// Questions from a pipe, read line by line.
impl<R: BufRead> Questions for R {
    fn next(&mut self) -> std::io::Result<Option<String>> {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            if self.read_until(b'\n', &mut line)? == 0 {
                return Ok((!text.trim().is_empty()).then(|| whole_question(&text)));
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\n').unwrap_or(&line);
            text.push_str(line.strip_suffix('\r').unwrap_or(line));
            if !goes_on(&text) {
                return Ok(Some(whole_question(&text)));
            }
            text.push('\n');
        }
    }
}

/// Whether a question goes on in the next line: after a backslash, and between `"""` and `"""`.
pub fn goes_on(text: &str) -> bool {
    text.ends_with('\\') || text.trim_start().starts_with(FENCE) && text.matches(FENCE).count() < 2
}

/// A question without the marks of its lines.
pub fn whole_question(text: &str) -> String {
    let text = text.trim();
    match text.strip_prefix(FENCE) {
        Some(inside) => inside.strip_suffix(FENCE).unwrap_or(inside).trim().to_string(),
        None => text.strip_suffix('\\').unwrap_or(text).replace("\\\n", "\n"),
    }
}

const FENCE: &str = "\"\"\"";

/// Answers `questions` and streams the answers to `output` until `/quit` or the end of input. If a person types, a
/// raised stop ends the answer under way and not the conversation.
///
/// # Errors
/// A broken terminal or pipe, a chat template that refuses the dialog, or an interruption. A question that does not
/// fit the context is reported and the conversation goes on.
pub fn chat(
    generator: &Generator,
    options: &ChatOptions,
    mut questions: impl Questions,
    output: impl Write,
    context: &Context,
) -> Result<(), Error> {
    options.sampling.validate()?;
    let mut conversation = Conversation {
        generator,
        batcher: Batcher::new(generator)?,
        sampling: options.sampling.clone(),
        interactive: options.interactive,
        system: options.system.clone(),
        turns: Vec::new(),
        output,
        stop: &context.stop,
    };
    if options.interactive {
        conversation.note("Type a message; /help lists commands.")?;
    }
    loop {
        if options.interactive {
            context.stop.clear();
            conversation.note("")?;
            conversation.output.flush()?;
        }
        let Some(text) = questions.next()? else { return Ok(()) };
        context.stop.check()?;
        if conversation.hear(&text)?.is_break() {
            return Ok(());
        }
        conversation.output.flush()?;
    }
}

/// What was said until now, and with whom.
struct Conversation<'a, W> {
    generator: &'a Generator,
    batcher: Batcher,
    sampling: Sampling,
    interactive: bool,
    system: Option<String>,
    /// Questions and answers in turn.
    turns: Vec<Message>,
    output: W,
    stop: &'a Stop,
}

impl<W: Write> Conversation<'_, W> {
    /// Does what a command says, or answers a question.
    fn hear(&mut self, text: &str) -> Result<ControlFlow<()>, Error> {
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        match command {
            "" => {}
            "/quit" | "/exit" => return Ok(ControlFlow::Break(())),
            "/help" => self.note(HELP)?,
            "/reset" => {
                self.turns.clear();
                self.note("(a new conversation)")?;
            }
            "/system" if rest.is_empty() => {
                let system = self.system.clone();
                self.note(system.as_deref().unwrap_or("(no system prompt)"))?;
            }
            "/system" => {
                self.system = Some(rest.to_string());
                self.turns.clear();
                self.note("(a new conversation with this system prompt)")?;
            }
            "/save" if rest.is_empty() => self.note("(where to? /save FILE)")?,
            "/save" => {
                let folder = Path::new(rest).parent().filter(|f| !f.as_os_str().is_empty() && !f.is_dir());
                let note = match folder.map(|f| f.display()) {
                    // A folder that is not there is more likely misspelt than wanted.
                    Some(folder) => format!("(not saved: there is no folder {folder})"),
                    None => match herd_run::atomic::write_json(rest.as_ref(), &self.messages()) {
                        Ok(()) => format!("(saved {rest})"),
                        Err(error) => format!("(not saved: {error})"),
                    },
                };
                self.note(&note)?;
            }
            "/retry" if self.turns.len() < 2 => self.note("(there is no answer yet)")?,
            "/retry" if self.sampling.temperature == 0.0 => {
                self.note("(at temperature 0 the answer stays the same)")?;
            }
            "/retry" => {
                self.turns.pop();
                self.sampling.seed = self.sampling.seed.wrapping_add(1);
                self.answer()?;
            }
            other if other.starts_with('/') && !other[1..].contains('/') => {
                self.note(&format!("(no command {other}; /help lists them)"))?;
            }
            _ => {
                self.turns.push(Message::new(Role::User, text));
                self.answer()?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Shows a line that is not the model's.
    fn note(&mut self, line: &str) -> std::io::Result<()> {
        writeln!(self.output, "{line}")
    }

    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// Streams the answer to the last message and keeps it.
    fn answer(&mut self) -> Result<(), Error> {
        let Some(prompt) = self.prompt()? else { return Ok(()) };
        let request = Request { prompt, samples: 1, sampling: self.sampling.clone() };
        // Dropped at the end, which cancels an answer that was stopped.
        let (_running, events) = self.batcher.submit(request)?;
        let mut said = String::new();
        let mut finished = false;
        while !finished {
            if self.interactive && self.stop.requested() {
                write!(self.output, " (stopped)")?;
                break;
            }
            let text = match events.recv_timeout(Duration::from_millis(100)) {
                Ok(Event::Started { .. }) | Err(RecvTimeoutError::Timeout) => String::new(),
                Ok(Event::Token { text, .. }) => text,
                Ok(Event::Finished { text, .. }) => {
                    finished = true;
                    text
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Closed),
            };
            write!(self.output, "{text}")?;
            self.output.flush()?;
            said.push_str(&text);
            if !self.interactive && !finished {
                self.stop.check()?;
            }
        }
        writeln!(self.output)?;
        self.turns.push(Message::new(Role::Assistant, said));
        Ok(())
    }

    /// The tokens of the dialog with room for an answer of a quarter of the context at least: the oldest exchange gives
    /// way. `None` if the last message alone is too long; it is taken back.
    fn prompt(&mut self) -> Result<Option<Vec<u32>>, Error> {
        let context = self.generator.context();
        let room = context - self.sampling.max_tokens.min(context / 4);
        loop {
            let prompt = encode_dialog(self.generator.tokenizer(), &self.messages(), true)?.tokens;
            if prompt.len() < room {
                return Ok(Some(prompt));
            }
            if self.turns.len() < 3 {
                self.turns.pop();
                let tokens = prompt.len();
                self.note(&format!(
                    "(that is too long: {tokens} tokens with the system prompt, room for {room})"
                ))?;
                return Ok(None);
            }
            self.turns.drain(..2);
            self.note("(the oldest exchange no longer fits and is forgotten)")?;
        }
    }
}
