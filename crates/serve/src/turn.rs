//! One answer of a chat while it grows: text, calls and log-probabilities.

use crate::answers::token_text;
use crate::tools::{Calls, Piece};
use herd_infer::{Event, FinishReason, TokenLogprob};
use herd_tokenizer::Tokenizer;
use serde_json::{Value, json};

/// One answer.
pub(crate) struct Turn {
    tokenizer: Tokenizer,
    /// Absent if nothing may be called.
    calls: Option<Calls>,
    content: String,
    called: Vec<Value>,
    logprobs: Vec<Value>,
    reason: Option<&'static str>,
}

/// What one event adds to an answer.
pub(crate) struct Delta {
    pub pieces: Vec<Piece>,
    pub logprobs: Option<Value>,
    /// The answer is complete.
    pub reason: Option<&'static str>,
}

impl Turn {
    pub(crate) fn new(tokenizer: Tokenizer, calls: Option<Calls>) -> Self {
        let (content, called, logprobs) = (String::new(), Vec::new(), Vec::new());
        Self { tokenizer, calls, content, called, logprobs, reason: None }
    }

    /// Whether the answer is complete; what comes after that is not part of it.
    pub(crate) fn finished(&self) -> bool {
        self.reason.is_some()
    }

    /// Takes the next event.
    pub(crate) fn take(&mut self, event: Event) -> Delta {
        let mut delta = Delta { pieces: Vec::new(), logprobs: None, reason: None };
        if self.finished() {
            return delta;
        }
        let pieces = &mut delta.pieces;
        match event {
            Event::Started { .. } => {}
            Event::Token { token, text, logprob, .. } => {
                match &mut self.calls {
                    Some(calls) => {
                        calls.push(&text, pieces);
                        if self.tokenizer.is_special(token) {
                            let name = String::from_utf8_lossy(self.tokenizer.token_bytes(token));
                            calls.special(&name, pieces);
                        }
                        delta.reason = calls.satisfied().then_some("tool_calls");
                    }
                    None if text.is_empty() => {}
                    None => pieces.push(Piece::Content(text)),
                }
                delta.logprobs = logprob.map(|l| logprob_json(&self.tokenizer, &l));
            }
            Event::Finished { text, reason, .. } => {
                let mut name = reason_name(reason);
                match &mut self.calls {
                    Some(calls) => {
                        calls.push(&text, pieces);
                        calls.finish(reason != FinishReason::Stop, pieces);
                        if calls.any() && reason == FinishReason::Stop {
                            name = "tool_calls";
                        }
                    }
                    None if text.is_empty() => {}
                    None => pieces.push(Piece::Content(text)),
                }
                delta.reason = Some(name);
            }
        }
        self.remember(&delta);
        delta
    }

    fn remember(&mut self, delta: &Delta) {
        for piece in &delta.pieces {
            match piece {
                Piece::Content(text) => self.content.push_str(text),
                Piece::Call { id, name, .. } => {
                    let function = json!({ "name": name, "arguments": "" });
                    self.called.push(json!({ "id": id, "type": "function", "function": function }));
                }
                Piece::Arguments { index, text } => {
                    if let Value::String(all) = &mut self.called[*index]["function"]["arguments"] {
                        all.push_str(text);
                    }
                }
            }
        }
        self.logprobs.extend(delta.logprobs.clone());
        self.reason = delta.reason;
    }

    /// The whole answer as a choice.
    pub(crate) fn choice(self, index: usize) -> Value {
        let mut message = json!({ "role": "assistant", "content": self.content, "refusal": null });
        if !self.called.is_empty() {
            if self.content.trim().is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = self.called.into();
        }
        let logprobs =
            (!self.logprobs.is_empty()).then(|| json!({ "content": self.logprobs, "refusal": null }));
        json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": self.reason })
    }
}

impl Delta {
    /// The choices of the chunks of a stream.
    pub(crate) fn choices(self, index: usize) -> Vec<Value> {
        let mut logprobs = self.logprobs.map(|l| json!({ "content": [l], "refusal": null }));
        let mut deltas: Vec<Value> = self.pieces.iter().map(piece_json).collect();
        if deltas.is_empty() && logprobs.is_some() {
            deltas.push(json!({ "content": "" }));
        }
        let choice = |delta: Value, logprobs: Option<Value>, reason: Option<&str>| json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason });
        let mut choices: Vec<Value> = deltas.into_iter().map(|d| choice(d, logprobs.take(), None)).collect();
        choices.extend(self.reason.map(|reason| choice(json!({}), None, Some(reason))));
        choices
    }
}

fn piece_json(piece: &Piece) -> Value {
    match piece {
        Piece::Content(text) => json!({ "content": text }),
        Piece::Call { index, id, name } => {
            let function = json!({ "name": name, "arguments": "" });
            json!({ "tool_calls": [{ "index": index, "id": id, "type": "function", "function": function }] })
        }
        Piece::Arguments { index, text } => {
            json!({ "tool_calls": [{ "index": index, "function": { "arguments": text } }] })
        }
    }
}

/// The name that OpenAI's clients know.
pub(crate) fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::Cancelled => "stop",
    }
}

fn logprob_json(tokenizer: &Tokenizer, logprob: &TokenLogprob) -> Value {
    let entry = |token: u32, logprob: f32| json!({ "id": token, "token": token_text(tokenizer, token), "logprob": logprob, "bytes": tokenizer.token_bytes(token) });
    let mut value = entry(logprob.token, logprob.logprob);
    value["top_logprobs"] = logprob.top.iter().map(|&(token, p)| entry(token, p)).collect();
    value
}
