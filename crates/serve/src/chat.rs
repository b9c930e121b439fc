//! `POST /v1/chat/completions`.

use crate::answers::{Answers, Choice, Envelope, Usage, reason_name, token_text};
use crate::body;
use crate::fields::{Fields, wrong};
use crate::reply::ApiError;
use crate::sampling::{MAX_SAMPLES, max_tokens, sampling};
use crate::server::App;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use herd_infer::{Event, Request, TokenLogprob};
use herd_tokenizer::Tokenizer;
use herd_tokenizer::chat::{Dialog, encode_rich_dialog};
use serde_json::{Value, json};
use std::sync::Arc;

/// Most messages of one dialog.
const MAX_MESSAGES: usize = 4096;

pub(crate) async fn chat_completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let value = body::json(body, app.limits.max_body_bytes).await?;
    let f = Fields::of(&value)?;
    app.check_model(&f)?;
    let empty_list = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
    for name in ["tools", "functions", "modalities", "audio"] {
        f.unsupported(name, |v| empty_list(v) || v == &json!(["text"]))?;
    }
    f.unsupported("response_format", |v| v["type"] == "text")?;
    let messages = messages(f.required("messages")?)?;
    let samples = f.whole("n", 1..=MAX_SAMPLES)?.unwrap_or(1);
    let mut sampling = sampling(&f)?;
    let top = f.whole("top_logprobs", 0..=20)?;
    sampling.logprobs = match (f.flag("logprobs")?, top) {
        (true, top) => Some(top.unwrap_or(0) as usize),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            return Err(ApiError::invalid(Some("top_logprobs"), "`top_logprobs` needs `logprobs`: true"));
        }
    };
    let (stream, with_usage) = app.stream_options(&f)?;

    // Rendering and encoding a long dialog would hold up the other connections of this thread.
    let tokenizer = app.generator.tokenizer().clone();
    let dialog = Dialog { messages, add_generation_prompt: true, ..Dialog::default() };
    let encoded = tokio::task::spawn_blocking(move || encode_rich_dialog(&tokenizer, &dialog)).await;
    let prompt = match encoded {
        Ok(Ok(chat)) => chat.tokens,
        Ok(Err(error)) => return Err(ApiError::invalid(Some("messages"), error.to_string())),
        Err(_) => return Err(ApiError::invalid(Some("messages"), "the chat template failed on this dialog")),
    };
    let names = ["max_completion_tokens", "max_tokens"];
    let default = app.limits.default_max_tokens;
    sampling.max_tokens = max_tokens(&f, &names, default, prompt.len(), app.generator.context())?;
    let request = Request { prompt, samples: samples as usize, sampling };
    let answers = Answers::start(&app, vec![request], "messages")?;
    let tokenizer = app.generator.tokenizer().clone();
    if stream {
        let envelope = Envelope::new("chatcmpl", "chat.completion.chunk", app.name.clone());
        return Ok(stream_chunks(answers, envelope, tokenizer, samples as usize, with_usage));
    }
    let (choices, usage) = answers.collect().await?;
    let envelope = Envelope::new("chatcmpl", "chat.completion", app.name.clone());
    let choices = choices.into_iter().enumerate().map(|(i, c)| whole_choice(&tokenizer, i, c)).collect();
    let mut response = envelope.wrap(choices);
    response["usage"] = usage.json();
    Ok(Json(response).into_response())
}

/// Checks the messages and brings them into the form that chat templates know.
fn messages(value: &Value) -> Result<Vec<Value>, ApiError> {
    let expected = format!("a list of 1 to {MAX_MESSAGES} messages");
    let list = value.as_array().filter(|l| (1..=MAX_MESSAGES).contains(&l.len()));
    let list = list.ok_or_else(|| wrong("messages", value, &expected))?;
    list.iter().enumerate().map(|(i, message)| normal_message(i, message)).collect()
}

fn normal_message(index: usize, message: &Value) -> Result<Value, ApiError> {
    let field = |name: &str| format!("messages[{index}].{name}");
    let role = match message["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant" | "tool" | "ipython")) => role,
        _ => {
            let expected = "one of system, developer, user, assistant, tool";
            return Err(wrong(&field("role"), &message["role"], expected));
        }
    };
    let content = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let mut all = String::new();
            for (p, part) in parts.iter().enumerate() {
                let name = field(&format!("content[{p}]"));
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(text)) => all.push_str(text),
                    _ => {
                        return Err(wrong(&name, part, "a part of type text; this model reads nothing else"));
                    }
                }
            }
            all
        }
        other => return Err(wrong(&field("content"), other, "a string or a list of text parts")),
    };
    Ok(json!({ "role": role, "content": content }))
}

fn whole_choice(tokenizer: &Tokenizer, index: usize, choice: Choice) -> Value {
    let logprobs = (!choice.logprobs.is_empty()).then(|| logprobs_json(tokenizer, &choice.logprobs));
    json!({
        "index": index,
        "message": { "role": "assistant", "content": choice.text, "refusal": null },
        "logprobs": logprobs,
        "finish_reason": choice.reason.map(reason_name),
    })
}

fn stream_chunks(
    answers: Answers,
    envelope: Envelope,
    tokenizer: Tokenizer,
    samples: usize,
    with_usage: bool,
) -> Response {
    let closing = envelope.clone();
    let wrap = move |index: usize, delta: Value, logprobs: Option<Value>, reason: Option<&str>| {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason });
        let mut chunk = envelope.wrap(vec![choice]);
        if with_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    let chunk = move |index: usize, event: Event| match event {
        // The prompt is computed: every choice begins.
        Event::Started { .. } => {
            let delta = json!({ "role": "assistant", "content": "", "refusal": null });
            (0..samples).map(|i| wrap(i, delta.clone(), None, None)).collect()
        }
        Event::Token { text, logprob: None, .. } if text.is_empty() => Vec::new(),
        Event::Token { text, logprob, .. } => {
            let logprobs = logprob.map(|l| logprobs_json(&tokenizer, &[l]));
            vec![wrap(index, json!({ "content": text }), logprobs, None)]
        }
        Event::Finished { text, reason, .. } => {
            let mut chunks = Vec::new();
            if !text.is_empty() {
                chunks.push(wrap(index, json!({ "content": text }), None, None));
            }
            chunks.push(wrap(index, json!({}), None, Some(reason_name(reason))));
            chunks
        }
    };
    let last = move |usage: &Usage| {
        with_usage.then(|| {
            let mut value = closing.wrap(Vec::new());
            value["usage"] = usage.json();
            value
        })
    };
    answers.stream(chunk, last)
}

fn logprobs_json(tokenizer: &Tokenizer, logprobs: &[TokenLogprob]) -> Value {
    let entry = |token: u32, logprob: f32| json!({ "token": token_text(tokenizer, token), "logprob": logprob, "bytes": tokenizer.token_bytes(token) });
    let content: Vec<Value> = logprobs
        .iter()
        .map(|l| {
            let mut value = entry(l.token, l.logprob);
            value["top_logprobs"] = l.top.iter().map(|&(token, p)| entry(token, p)).collect();
            value
        })
        .collect();
    json!({ "content": content, "refusal": null })
}
