//! A conversation in the terminal, or through a pipe.

use crate::request::{Event, Request};
use crate::sampling::Sampling;
use crate::{Batcher, Error, Generator};
use herd_run::Context;
use herd_tokenizer::chat::{Message, Role, encode_dialog};
use std::io::{BufRead, Write};
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
/save FILE    write the conversation as JSON
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
    mut output: impl Write,
    context: &Context,
) -> Result<(), Error> {
    options.sampling.validate()?;
    let batcher = Batcher::new(generator)?;
    let mut dialog = Dialog { system: options.system.clone(), turns: Vec::new() };
    let mut sampling = options.sampling.clone();
    if options.interactive {
        writeln!(output, "Type a message; /help lists commands.")?;
    }
    loop {
        if options.interactive {
            context.stop.clear();
            writeln!(output)?;
            output.flush()?;
        }
        let Some(text) = questions.next()? else { break };
        context.stop.check()?;
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let rest = rest.trim();
        match command {
            "" => continue,
            "/quit" | "/exit" => break,
            "/help" => writeln!(output, "{HELP}")?,
            "/reset" => {
                dialog.turns.clear();
                writeln!(output, "(a new conversation)")?;
            }
            "/system" if rest.is_empty() => {
                writeln!(output, "{}", dialog.system.as_deref().unwrap_or("(no system prompt)"))?;
            }
            "/system" => {
                dialog = Dialog { system: Some(rest.to_string()), turns: Vec::new() };
                writeln!(output, "(a new conversation with this system prompt)")?;
            }
            "/save" if rest.is_empty() => writeln!(output, "(where to? /save FILE)")?,
            "/save" => match herd_run::atomic::write_json(rest.as_ref(), &dialog.messages()) {
                Ok(()) => writeln!(output, "(saved {rest})")?,
                Err(error) => writeln!(output, "({error})")?,
            },
            "/retry" if dialog.turns.len() < 2 => writeln!(output, "(there is no answer yet)")?,
            "/retry" if sampling.temperature == 0.0 => {
                writeln!(output, "(at temperature 0 the answer stays the same)")?;
            }
            "/retry" => {
                dialog.turns.pop();
                sampling.seed = sampling.seed.wrapping_add(1);
                answer(
                    generator,
                    &batcher,
                    &sampling,
                    options.interactive,
                    &mut dialog,
                    &mut output,
                    context,
                )?;
            }
            other if other.starts_with('/') && !other[1..].contains('/') => {
                writeln!(output, "(no command {other}; /help lists them)")?;
            }
            _ => {
                dialog.turns.push(Message::new(Role::User, text.as_str()));
                answer(
                    generator,
                    &batcher,
                    &sampling,
                    options.interactive,
                    &mut dialog,
                    &mut output,
                    context,
                )?;
            }
        }
        output.flush()?;
    }
    Ok(())
}

struct Dialog {
    system: Option<String>,
    turns: Vec<Message>,
}

impl Dialog {
    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        system.chain(self.turns.iter().cloned()).collect()
    }
}

/// Streams the answer to the last message and keeps it in the dialog.
fn answer(
    generator: &Generator,
    batcher: &Batcher,
    sampling: &Sampling,
    interactive: bool,
    dialog: &mut Dialog,
    output: &mut impl Write,
    context: &Context,
) -> Result<(), Error> {
    // Room for an answer of a quarter of the context at least; the oldest exchange gives way.
    let room = generator.context() - sampling.max_tokens.min(generator.context() / 4);
    let prompt = loop {
        let prompt = encode_dialog(generator.tokenizer(), &dialog.messages(), true)?.tokens;
        if prompt.len() < room {
            break prompt;
        }
        if dialog.turns.len() < 3 {
            dialog.turns.pop();
            let tokens = prompt.len();
            writeln!(output, "(that is too long: {tokens} tokens with the system prompt, room for {room})")?;
            return Ok(());
        }
        dialog.turns.drain(..2);
        writeln!(output, "(the oldest exchange no longer fits and is forgotten)")?;
    };
    let request = Request { prompt, samples: 1, sampling: sampling.clone() };
    let (running, events) = batcher.submit(request)?;
    let mut said = String::new();
    loop {
        if interactive && context.stop.requested() {
            write!(output, " (stopped)")?;
            break;
        }
        let text = match events.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Token { text, .. }) => text,
            Ok(Event::Started { .. }) => continue,
            Ok(Event::Finished { text, .. }) => {
                write!(output, "{text}")?;
                said.push_str(&text);
                break;
            }
            Err(RecvTimeoutError::Timeout) if interactive => continue,
            Err(RecvTimeoutError::Timeout) => {
                context.stop.check()?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Closed),
        };
        write!(output, "{text}")?;
        output.flush()?;
        said.push_str(&text);
        if !interactive {
            context.stop.check()?;
        }
    }
    writeln!(output)?;
    dialog.turns.push(Message::new(Role::Assistant, said));
    drop(running);
    Ok(())
}
