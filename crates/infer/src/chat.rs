//! A conversation in the terminal, or through a pipe.

use crate::request::{Event, Request};
use crate::sampling::Sampling;
use crate::{Batcher, Error, Generator};
use herd_run::Context;
use herd_tokenizer::chat::{Message, Role, encode_dialog};
use std::io::{BufRead, Write};
use std::time::Duration;

/// What a conversation begins with.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// Instructions that stand before the conversation.
    pub system: Option<String>,
    /// How answers are drawn; `max_tokens` bounds each.
    pub sampling: Sampling,
    /// Whether a person types: shows a prompt sign and a greeting. False for a pipe.
    pub interactive: bool,
}

const HELP: &str = "\
/system TEXT  set the system prompt and begin anew (without TEXT: show it)
/reset        begin anew
/save FILE    write the conversation as JSON
/quit         leave (as does end of input)
A line that ends with \\ goes on in the next line.";

/// Reads questions from `input` line by line and streams the answers to `output` until `/quit` or the end of input.
///
/// # Errors
/// A broken terminal or pipe, a chat template that refuses the dialog, or an interruption. A question that does not
/// fit the context is reported and the conversation goes on.
pub fn chat(
    generator: &Generator,
    options: &ChatOptions,
    input: impl BufRead,
    mut output: impl Write,
    context: &Context,
) -> Result<(), Error> {
    options.sampling.validate()?;
    let batcher = Batcher::new(generator)?;
    let mut dialog = Dialog { system: options.system.clone(), turns: Vec::new() };
    let mut lines = Lines { input, interactive: options.interactive };
    if options.interactive {
        writeln!(output, "Type a message; /help lists commands.")?;
    }
    while let Some(text) = lines.next(&mut output)? {
        context.stop.check()?;
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        match command {
            "" => continue,
            "/quit" | "/exit" => break,
            "/help" => writeln!(output, "{HELP}")?,
            "/reset" => {
                dialog.turns.clear();
                writeln!(output, "(a new conversation)")?;
            }
            "/system" if rest.trim().is_empty() => {
                writeln!(output, "{}", dialog.system.as_deref().unwrap_or("(no system prompt)"))?;
            }
            "/system" => {
                dialog = Dialog { system: Some(rest.trim().to_string()), turns: Vec::new() };
                writeln!(output, "(a new conversation with this system prompt)")?;
            }
            "/save" => match herd_run::atomic::write_json(rest.trim().as_ref(), &dialog.messages()) {
                Ok(()) => writeln!(output, "(saved {})", rest.trim())?,
                Err(error) => writeln!(output, "({error})")?,
            },
            other if other.starts_with('/') && !other[1..].contains('/') => {
                writeln!(output, "(no command {other}; /help lists them)")?;
            }
            _ => {
                dialog.turns.push(Message::new(Role::User, text.as_str()));
                answer(generator, &batcher, options, &mut dialog, &mut output, context)?;
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

/// Input lines, those that end with a backslash joined to the next.
struct Lines<R> {
    input: R,
    interactive: bool,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self, output: &mut impl Write) -> Result<Option<String>, Error> {
        let mut text = String::new();
        loop {
            if self.interactive {
                write!(output, "{}", if text.is_empty() { "\n> " } else { ". " })?;
                output.flush()?;
            }
            let mut line = Vec::new();
            if self.input.read_until(b'\n', &mut line)? == 0 {
                return Ok((!text.trim().is_empty()).then(|| text.trim().to_string()));
            }
            text.push_str(&String::from_utf8_lossy(&line));
            let kept = text.trim_end_matches(['\n', '\r']).len();
            text.truncate(kept);
            if !text.ends_with('\\') {
                return Ok(Some(text.trim().to_string()));
            }
            text.pop();
            text.push('\n');
        }
    }
}

/// Streams the answer to the last message and keeps it in the dialog.
fn answer(
    generator: &Generator,
    batcher: &Batcher,
    options: &ChatOptions,
    dialog: &mut Dialog,
    output: &mut impl Write,
    context: &Context,
) -> Result<(), Error> {
    // Room for an answer of a quarter of the context at least; the oldest exchange gives way.
    let room = generator.context() - options.sampling.max_tokens.min(generator.context() / 4);
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
    let request = Request { prompt, samples: 1, sampling: options.sampling.clone() };
    let (running, events) = batcher.submit(request)?;
    let mut said = String::new();
    loop {
        let text = match events.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Token { text, .. }) => text,
            Ok(Event::Started { .. }) => continue,
            Ok(Event::Finished { text, .. }) => {
                write!(output, "{text}")?;
                said.push_str(&text);
                break;
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                context.stop.check()?;
                continue;
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Err(Error::Closed),
        };
        write!(output, "{text}")?;
        output.flush()?;
        said.push_str(&text);
        context.stop.check()?;
    }
    writeln!(output)?;
    dialog.turns.push(Message::new(Role::Assistant, said));
    drop(running);
    Ok(())
}
