//! Tool calls inside an answer, found while it streams. Of what may become a call nothing is shown as text.

use super::object::{Object, Step};
use crate::sampling::random_bits;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// Text for the reader.
    Content(String),
    /// A call begins.
    Call {
        /// Number of the call in its answer.
        index: usize,
        /// Made up here, unique.
        id: String,
        /// The function.
        name: String,
    },
    /// More of a call's arguments, which are JSON in the end.
    Arguments {
        /// Number of the call.
        index: usize,
        /// The next characters.
        text: String,
    },
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

#[derive(Debug)]
enum Mode {
    /// Nothing but white space so far.
    Start,
    /// A list or a tag may have begun.
    Maybe,
    /// Text goes to the reader.
    Content,
    /// Inside an object; how many characters of its arguments are given away, if it is known to be a call.
    Object { object: Object, given: Option<usize> },
    /// After a call.
    Between,
    /// After `<|python_tag|>`, undecided.
    Python,
    /// Code for the interpreter, whose beginning is given away.
    Code,
}

/// Finds the calls of one answer.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Functions that may be called.
    names: Vec<String>,
    /// Whether calls stand in `<tool_call>` tags, also after text.
    tags: bool,
    parallel: bool,
    mode: Mode,
    held: String,
    count: usize,
    tagged: bool,
}

impl Calls {
    pub(crate) fn new(names: Vec<String>, tags: bool, parallel: bool) -> Self {
        Self { names, tags, parallel, mode: Mode::Start, held: String::new(), count: 0, tagged: false }
    }

    /// Whether there is a call.
    pub(crate) fn any(&self) -> bool {
        self.count > 0
    }

    /// Whether the one call that is wanted is complete.
    pub(crate) fn satisfied(&self) -> bool {
        !self.parallel && self.count > 0 && matches!(self.mode, Mode::Between)
    }

    /// Takes a special token, which has no text.
    pub(crate) fn special(&mut self, name: &str, out: &mut Vec<Piece>) {
        match name {
            "<|python_tag|>" if !self.satisfied() => {
                self.flush(true, out);
                self.held.clear();
                self.mode = Mode::Python;
            }
            OPEN | CLOSE | "[TOOL_CALLS]" => {
                if let Mode::Content | Mode::Start | Mode::Maybe = self.mode {
                    self.flush(true, out);
                    self.mode = Mode::Between;
                    self.tagged = true;
                }
            }
            _ => {}
        }
    }

    /// Takes text.
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        for c in text.chars() {
            if self.satisfied() {
                return;
            }
            self.take(c, out);
        }
        match &mut self.mode {
            Mode::Content => {
                // What may begin a tag is held back, with the white space before it.
                let sure = self.held.len() - overlap(&self.held, OPEN);
                let sure = if self.tags { self.held[..sure].trim_end().len() } else { self.held.len() };
                let rest = self.held.split_off(sure);
                content(std::mem::replace(&mut self.held, rest), out);
            }
            Mode::Object { .. } => self.give_arguments(out),
            Mode::Code => {
                let index = self.count - 1;
                let text = escaped(&std::mem::take(&mut self.held));
                if !text.is_empty() {
                    out.push(Piece::Arguments { index, text });
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, c: char, out: &mut Vec<Piece>) {
        let begins = c == '{' && self.may_begin();
        match &mut self.mode {
            Mode::Start | Mode::Maybe | Mode::Between if begins => {
                self.held.push(c);
                self.mode = Mode::Object { object: Object::new(), given: None };
            }
            Mode::Start => {
                self.held.push(c);
                if c == '[' || c == '<' && self.tags {
                    self.mode = Mode::Maybe;
                } else if !c.is_whitespace() {
                    self.mode = Mode::Content;
                }
            }
            Mode::Maybe => {
                self.held.push(c);
                let begun = self.held.trim_start();
                if begun == OPEN {
                    self.held.clear();
                    self.tagged = true;
                    self.mode = Mode::Between;
                } else if !(self.tags && OPEN.starts_with(begun) || begun.trim_end() == "[") {
                    self.mode = Mode::Content;
                }
            }
            Mode::Content => {
                self.held.push(c);
                if self.tags && self.held.ends_with(OPEN) {
                    self.held.truncate(self.held.len() - OPEN.len());
                    // The line break before a call is not meant for the reader.
                    self.held.truncate(self.held.trim_end().len());
                    content(std::mem::take(&mut self.held), out);
                    self.tagged = true;
                    self.mode = Mode::Between;
                }
            }
            Mode::Object { object, given } => {
                self.held.push(c);
                let step = object.push(c);
                if given.is_none() && object.name.as_ref().is_some_and(|n| self.names.contains(n)) {
                    *given = Some(0);
                    let name = object.name.clone().unwrap_or_default();
                    begin(&mut self.count, name, out);
                }
                match step {
                    Step::More => {}
                    Step::Done => self.end_object(out),
                    Step::Broken => self.no_call(out),
                }
            }
            Mode::Between => {
                self.held.push(c);
                let begun = self.held.trim_start_matches(|c: char| c.is_whitespace() || ";,[]".contains(c));
                if begun.is_empty() || begun == OPEN || begun == CLOSE {
                    self.held.clear();
                } else if !OPEN.starts_with(begun) && !CLOSE.starts_with(begun) {
                    self.mode = Mode::Content;
                }
            }
            Mode::Python => {
                self.held.push(c);
                let begun = self.held.trim_start();
                if begun.starts_with('{') {
                    self.held = "{".into();
                    self.mode = Mode::Object { object: Object::new(), given: None };
                } else if !begun.is_empty() && !may_be_builtin(begun) {
                    self.begin_code(out);
                }
            }
            Mode::Code => self.held.push(c),
        }
    }

    /// Whether an object that begins here may be a call: only white space, a list or another call is before it.
    fn may_begin(&self) -> bool {
        matches!(self.mode, Mode::Start | Mode::Between) || self.held.trim() == "["
    }

    fn give_arguments(&mut self, out: &mut Vec<Piece>) {
        if let Mode::Object { object, given: Some(given) } = &mut self.mode {
            let text = object.arguments[*given..].to_string();
            *given = object.arguments.len();
            if !text.is_empty() {
                out.push(Piece::Arguments { index: self.count - 1, text });
            }
        }
    }

    fn end_object(&mut self, out: &mut Vec<Piece>) {
        self.give_arguments(out);
        let Mode::Object { object, given } = &self.mode else { return };
        match given {
            Some(given) => {
                if *given == 0 {
                    out.push(Piece::Arguments { index: self.count - 1, text: "{}".into() });
                }
            }
            None => match object.nested().filter(|(name, _)| self.names.contains(name)) {
                Some((name, text)) => {
                    begin(&mut self.count, name, out);
                    out.push(Piece::Arguments { index: self.count - 1, text });
                }
                None => return self.no_call(out),
            },
        }
        self.held.clear();
        self.mode = Mode::Between;
    }

    /// What looked like a call is none: it is text, unless a part of it has been given away as a call.
    fn no_call(&mut self, out: &mut Vec<Piece>) {
        if let Mode::Object { given: Some(_), .. } = self.mode {
            self.give_arguments(out);
            self.held.clear();
        }
        content(std::mem::take(&mut self.held), out);
        self.mode = Mode::Content;
    }

    fn begin_code(&mut self, out: &mut Vec<Piece>) {
        let names = ["python", "ipython", "code_interpreter"];
        let name = names.iter().find(|n| self.names.iter().any(|known| known == *n));
        begin(&mut self.count, name.copied().unwrap_or("code_interpreter").to_string(), out);
        out.push(Piece::Arguments { index: self.count - 1, text: "{\"code\": \"".into() });
        self.mode = Mode::Code;
    }

    /// The answer is over. `cut` says that the model was not allowed to end it: then half a call is not shown.
    pub(crate) fn finish(&mut self, cut: bool, out: &mut Vec<Piece>) {
        self.flush(cut, out);
    }

    fn flush(&mut self, cut: bool, out: &mut Vec<Piece>) {
        match &self.mode {
            Mode::Start | Mode::Maybe | Mode::Content => content(std::mem::take(&mut self.held), out),
            Mode::Object { given, .. } => {
                if given.is_some() {
                    self.give_arguments(out);
                } else if !cut && !self.tagged {
                    content(std::mem::take(&mut self.held), out);
                }
            }
            Mode::Between => {}
            Mode::Python => {
                let text = std::mem::take(&mut self.held);
                if let Some((name, arguments)) = builtin(text.trim()) {
                    begin(&mut self.count, name, out);
                    out.push(Piece::Arguments { index: self.count - 1, text: arguments });
                } else if !text.trim().is_empty() {
                    self.begin_code(out);
                    let text = escaped(&text) + "\"}";
                    out.push(Piece::Arguments { index: self.count - 1, text });
                }
            }
            Mode::Code => {
                let text = escaped(&std::mem::take(&mut self.held)) + "\"}";
                out.push(Piece::Arguments { index: self.count - 1, text });
            }
        }
        self.held.clear();
        self.mode = Mode::Between;
    }
}

fn begin(count: &mut usize, name: String, out: &mut Vec<Piece>) {
    let id = format!("call_{:016x}{:08x}", random_bits(), random_bits() as u32);
    out.push(Piece::Call { index: *count, id, name });
    *count += 1;
}

fn content(text: String, out: &mut Vec<Piece>) {
    if !text.is_empty() {
        out.push(Piece::Content(text));
    }
}

/// Length of the longest end of `text` that begins `tag`.
fn overlap(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or(0)
}

/// `text` as the inside of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_string()
}

/// Whether `text` may become `name.call(...)`.
fn may_be_builtin(text: &str) -> bool {
    let name = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let rest = &text[name..];
    let call = ".call(";
    name > 0 && (call.starts_with(rest) || rest.starts_with(call))
}

/// A call of a built-in tool as Llama 3.1 writes it: `brave_search.call(query="...")`.
fn builtin(text: &str) -> Option<(String, String)> {
    let (name, rest) = text.split_once(".call(")?;
    let mut inside = rest.strip_suffix(')')?.trim();
    let mut arguments = serde_json::Map::new();
    while !inside.is_empty() {
        let (key, rest) = inside.split_once('=')?;
        let rest = rest.trim_start();
        let quote = rest.chars().next()?;
        let (value, rest) = if quote == '"' || quote == '\'' {
            let mut escaped = false;
            let end = rest[1..].char_indices().find(|&(_, c)| {
                let ends = c == quote && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            let text = rest[1..=end.0].replace("\\\"", "\"").replace("\\'", "'").replace("\\n", "\n");
            (text.into(), &rest[end.0 + 2..])
        } else {
            let (value, rest) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            (serde_json::from_str(value.trim()).unwrap_or_else(|_| value.trim().into()), rest)
        };
        arguments.insert(key.trim().to_string(), value);
        inside = rest.trim_start().trim_start_matches(',').trim();
    }
    Some((name.trim().to_string(), serde_json::Value::Object(arguments).to_string()))
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
