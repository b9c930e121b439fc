//! The chat format: a dialog as text (through the tokenizer's Jinja template, as Transformers renders it) and as
//! tokens with what each token is for.

mod date;
mod python;
mod python_json;
mod template;

pub use template::{ChatTemplate, Dialog};

use crate::{Error, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The chat template of Llama 3.1: a system message with dates, tools, then the turns.
pub const LLAMA31_TEMPLATE: &str = include_str!("llama31.jinja");

/// The chat template of Llama 3.0: the turns and nothing else. Shorter, for small models.
pub const LLAMA3_TEMPLATE: &str = include_str!("llama3.jinja");

/// The chat templates that a tokenizer can be trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TemplateKind {
    /// [`LLAMA31_TEMPLATE`]
    #[default]
    #[serde(rename = "llama3.1")]
    Llama31,
    /// [`LLAMA3_TEMPLATE`]
    #[serde(rename = "llama3")]
    Llama3,
}

impl TemplateKind {
    /// The template itself.
    pub fn text(self) -> &'static str {
        match self {
            Self::Llama31 => LLAMA31_TEMPLATE,
            Self::Llama3 => LLAMA3_TEMPLATE,
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole dialog; first if present.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// Output of a tool.
    #[serde(alias = "tool")]
    Ipython,
}

/// One message of a dialog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Names of special tokens in it are text, they never become special tokens.
    pub content: String,
}

impl Message {
    /// A message of the given role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// What a token of a dialog is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Format: begin of text, and who speaks.
    Header,
    /// Given to the model: all of a message that is not the model's, its end included.
    Prompt,
    /// Said by the model: SFT learns these, and [`TokenKind::Terminator`].
    Response,
    /// The end of a message of the model (`<|eot_id|>`, `<|eom_id|>`); DPO masks it.
    Terminator,
}

/// A dialog as tokens; both lists have the same length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatTokens {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// What each is for.
    pub kinds: Vec<TokenKind>,
}

/// The tokens of a dialog in the format of the tokenizer's chat template, the same that Transformers'
/// `apply_chat_template` gives, except that names of special tokens inside messages stay text. With
/// `add_generation_prompt` it ends with the header of the next answer.
///
/// # Errors
/// The template refuses the dialog.
pub fn encode_dialog(
    tokenizer: &Tokenizer,
    messages: &[Message],
    add_generation_prompt: bool,
) -> Result<ChatTokens, Error> {
    let messages: Vec<Value> =
        messages.iter().map(|m| serde_json::json!({ "role": m.role, "content": m.content })).collect();
    encode_rich_dialog(tokenizer, &Dialog { messages, add_generation_prompt, ..Dialog::default() })
}

/// As [`encode_dialog`], for messages with tool calls, tools and further variables of the template.
///
/// What a token is for is known for templates in Llama 3's format; in others all of a prompt is [`TokenKind::Header`].
pub fn encode_rich_dialog(tokenizer: &Tokenizer, dialog: &Dialog) -> Result<ChatTokens, Error> {
    let mut guarded = dialog.clone();
    let matches = |text: &str| tokenizer.special_ranges(text);
    let strings = guarded.messages.iter_mut().chain(guarded.tools.iter_mut().flatten());
    strings.chain(guarded.variables.values_mut()).for_each(|value| guard(value, &matches));
    for (variable, token) in [("bos_token", tokenizer.bos()), ("eos_token", tokenizer.eos())] {
        if let Some(id) = token {
            let name = String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
            guarded.variables.entry(variable).or_insert_with(|| name.into());
        }
    }
    let text = tokenizer.compiled_template()?.render(&guarded)?;

    let specials = *tokenizer.specials();
    let mut out = ChatTokens::default();
    let mut state = State::Header;
    tokenizer.for_each_segment(&text, |segment, first, special| {
        let plain = unguard(segment);
        let start = out.tokens.len();
        tokenizer.encode_segment(&plain, first, &mut out.tokens);
        match &mut state {
            State::Header => {
                out.kinds.resize(out.tokens.len(), TokenKind::Header);
            }
            State::Role(role) => {
                role.push_str(&plain);
                out.kinds.resize(out.tokens.len(), TokenKind::Header);
            }
            State::Content { model, begins } => {
                // The two newlines after the header belong to it.
                let mut header_bytes = if *begins && plain.starts_with("\n\n") { 2 } else { 0 };
                *begins = false;
                for &token in &out.tokens[start..] {
                    let length = tokenizer.token_bytes(token).len();
                    let in_header = length <= header_bytes;
                    header_bytes = if in_header { header_bytes - length } else { 0 };
                    out.kinds.push(if in_header { TokenKind::Header } else { content_kind(*model) });
                }
            }
        }
        let Some(special) = special else { return };
        out.tokens.push(special);
        let (kind, next) = if special == specials.start_header {
            (TokenKind::Header, Some(State::Role(String::new())))
        } else if special == specials.end_header {
            let model = matches!(&state, State::Role(role) if role == "assistant");
            (TokenKind::Header, Some(State::Content { model, begins: true }))
        } else if let State::Content { model, .. } = state {
            let ends = special == specials.eot || special == specials.eom || special == specials.end_of_text;
            let kind = if ends && model { TokenKind::Terminator } else { content_kind(model) };
            (kind, ends.then_some(State::Header))
        } else {
            (TokenKind::Header, None)
        };
        out.kinds.push(kind);
        state = next.unwrap_or(std::mem::replace(&mut state, State::Header));
    });
    Ok(out)
}

/// Where in the format a token stands.
enum State {
    /// Outside of messages.
    Header,
    /// Between `<|start_header_id|>` and `<|end_header_id|>`, with the text so far.
    Role(String),
    /// In a message, the model's own or not; at its beginning or not.
    Content { model: bool, begins: bool },
}

fn content_kind(model: bool) -> TokenKind {
    if model { TokenKind::Response } else { TokenKind::Prompt }
}

/// A noncharacter that texts do not contain; put into the name of a special token it keeps the name from being
/// read as that token. Where a text does contain it, it is doubled.
const GUARD: char = '\u{fdd0}';

fn guard(value: &mut Value, special_ranges: &impl Fn(&str) -> Vec<std::ops::Range<usize>>) {
    match value {
        Value::String(text) => {
            if text.contains(GUARD) {
                *text = text.replace(GUARD, "\u{fdd0}\u{fdd0}");
            }
            for range in special_ranges(text).into_iter().rev() {
                // After the first character of the name.
                let first = text[range.start..].chars().next().map_or(0, char::len_utf8);
                text.insert(range.start + first, GUARD);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|v| guard(v, special_ranges)),
        Value::Object(fields) => fields.values_mut().for_each(|v| guard(v, special_ranges)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn unguard(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(GUARD) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != GUARD {
            out.push(c);
        } else if chars.next_if_eq(&GUARD).is_some() {
            out.push(GUARD);
        }
    }
    out.into()
}
