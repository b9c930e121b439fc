//! Records turned into tokens, with what is trained on marked token by token.

use crate::Error;
use crate::records::{Instruction, Message, Preference, Records, Role};
use herd_tokenizer::Tokenizer;
use herd_tokenizer::chat::{self, TokenKind};

/// A dialog for SFT.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialog {
    /// The whole dialog.
    pub tokens: Vec<u32>,
    /// Whether a token is learned: every token of an assistant's message and the terminator that ends it (SPEC
    /// POST-5). Headers, system, user and tool messages are not.
    pub learned: Vec<bool>,
    /// The record's task.
    pub task: Option<String>,
}

/// One response to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Content and terminator.
    pub tokens: Vec<u32>,
    /// Whether DPO counts a token: content yes, format no (SPEC POST-6).
    pub counted: Vec<bool>,
}

/// A prompt and its responses, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The prompt, ending with the header of the assistant's message.
    pub prompt: Vec<u32>,
    /// `[edited, chosen, rejected]` or `[chosen, rejected]`, or samples in any order.
    pub responses: Vec<Response>,
    /// Round in which it was collected.
    pub round: u32,
}

impl Group {
    /// Rows it takes when packed: the prompt once, and every response.
    pub fn rows(&self) -> usize {
        self.prompt.len() + self.responses.iter().map(|r| r.tokens.len()).sum::<usize>()
    }
}

/// The tokens of a prompt, ending with the header of the assistant's answer.
pub fn prompt(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, herd_tokenizer::Error> {
    Ok(chat::encode_dialog(tokenizer, &to_chat(messages), true)?.tokens)
}

/// A dialog's tokens and what is learned of them.
pub fn dialog(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Dialog, herd_tokenizer::Error> {
    let encoded = chat::encode_dialog(tokenizer, &to_chat(messages), false)?;
    let is_learned = |kind: &TokenKind| matches!(kind, TokenKind::Response | TokenKind::Terminator);
    let learned = encoded.kinds.iter().map(is_learned).collect();
    Ok(Dialog { tokens: encoded.tokens, learned, task: None })
}

/// A prompt and responses to it, in the order given.
pub fn group<'a>(
    tokenizer: &Tokenizer,
    messages: &[Message],
    responses: impl IntoIterator<Item = &'a str>,
) -> Result<Group, herd_tokenizer::Error> {
    let prompt = prompt(tokenizer, messages)?;
    let tokenise = |content: &str| {
        let mut whole = messages.to_vec();
        whole.push(Message::new(Role::Assistant, content));
        let encoded = chat::encode_dialog(tokenizer, &to_chat(&whole), false)?;
        if !encoded.tokens.starts_with(&prompt) {
            let problem =
                "a dialog does not begin with the tokens of its prompt; use a template that only appends";
            return Err(herd_tokenizer::Error::Template(problem.into()));
        }
        let counted = encoded.kinds[prompt.len()..].iter().map(|kind| *kind == TokenKind::Response).collect();
        Ok(Response { tokens: encoded.tokens[prompt.len()..].to_vec(), counted })
    };
    let responses = responses.into_iter().map(tokenise).collect::<Result<_, _>>()?;
    Ok(Group { prompt, responses, round: 1 })
}

fn to_chat(messages: &[Message]) -> Vec<chat::Message> {
    messages.iter().map(|m| chat::Message::new(role(m.role), &m.content)).collect()
}

fn role(role: Role) -> chat::Role {
    match role {
        Role::System => chat::Role::System,
        Role::User => chat::Role::User,
        Role::Assistant => chat::Role::Assistant,
        Role::Ipython => chat::Role::Ipython,
    }
}

fn too_long(tokens: usize, max_tokens: usize) -> String {
    format!(
        "takes {tokens} tokens, the limit `max_tokens` is {max_tokens}; shorten the record or raise the limit"
    )
}

/// Tokenises instructions; one longer than `max_tokens` is an error with its line.
pub fn dialogs(
    tokenizer: &Tokenizer,
    records: &Records<Instruction>,
    max_tokens: usize,
) -> Result<Vec<Dialog>, Error> {
    let tokenise = |(line, record): &(usize, Instruction)| {
        let dialog = dialog(tokenizer, &record.messages).map_err(|e| records.error(*line, e.to_string()))?;
        if dialog.tokens.len() > max_tokens {
            return Err(records.error(*line, too_long(dialog.tokens.len(), max_tokens)));
        }
        Ok(Dialog { task: record.task.clone(), ..dialog })
    };
    records.records.iter().map(tokenise).collect()
}

/// Tokenises ranked responses whose strength is used; a prompt with one response longer than `max_tokens` is an error
/// with its line. Also returns how many records were too weak.
pub fn groups(
    tokenizer: &Tokenizer,
    records: &Records<Preference>,
    max_tokens: usize,
) -> Result<(Vec<Group>, usize), Error> {
    let mut groups = Vec::new();
    let mut weak = 0;
    for (line, record) in &records.records {
        if !record.strength.is_used() {
            weak += 1;
            continue;
        }
        let ranked = record.edited.iter().chain([&record.chosen, &record.rejected]).map(String::as_str);
        let mut group =
            group(tokenizer, &record.prompt, ranked).map_err(|e| records.error(*line, e.to_string()))?;
        group.round = record.round;
        let longest = group.prompt.len() + group.responses.iter().map(|r| r.tokens.len()).max().unwrap_or(0);
        if longest > max_tokens {
            return Err(records.error(*line, too_long(longest, max_tokens)));
        }
        groups.push(group);
    }
    Ok((groups, weak))
}
