//! `POST /v1/completions`: text goes on, without a chat format.

use crate::answers::{Answers, Choice, Envelope, token_text};
use crate::body;
use crate::fields::Fields;
use crate::form::Form;
use crate::prompts::prompts;
use crate::reply::ApiError;
use crate::sampling::{MAX_SAMPLES, max_tokens, sampling};
use crate::server::App;
use crate::turn::reason_name;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use herd_infer::{Event, Request, TokenLogprob};
use herd_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let value = body::json(body, app.limits.max_body_bytes).await?;
    let f = Fields::of(&value)?;
    app.check_model(&f)?;
    f.unsupported("suffix", |v| v == "")?;
    let samples = f.whole("n", 1..=MAX_SAMPLES)?.unwrap_or(1);
    f.unsupported("best_of", |v| v.as_u64() == Some(samples))?;
    let echo = f.flag("echo")?;
    let prompts = prompts(&app, "prompt", f.required("prompt")?)?;
    let mut sampling = sampling(&f)?;
    sampling.logprobs = f.whole("logprobs", 0..=20)?.map(|n| n as usize);
    let (stream, with_usage) = app.stream_options(&f)?;
    if let Some(form) = Form::read(&f)? {
        sampling.constraint = Some(form.compile(&app).await?);
    }
    let mut requests = Vec::new();
    for prompt in &prompts {
        let mut sampling = sampling.clone();
        sampling.max_tokens = max_tokens(&f, &["max_tokens"], 16, prompt.len(), app.generator.context())?;
        requests.push(Request { prompt: prompt.clone(), samples: samples as usize, sampling });
    }
    let tokenizer = app.generator.tokenizer().clone();
    let echoed: Vec<String> = (prompts.iter())
        .flat_map(|p| {
            std::iter::repeat_n(if echo { echo_text(&tokenizer, p) } else { String::new() }, samples as usize)
        })
        .collect();
    let answers = Answers::start(&app, requests, "prompt")?;
    let envelope = Envelope::new("cmpl", "text_completion", app.name.clone());
    if !stream {
        let (choices, usage) = answers.collect().await?;
        let choices = choices.into_iter().zip(&echoed).enumerate();
        let choices = choices.map(|(i, (choice, echo))| whole_choice(&tokenizer, i, choice, echo)).collect();
        let mut response = envelope.wrap(choices);
        response["usage"] = usage.json();
        return Ok(Json(response).into_response());
    }
    let mut echoed: Vec<Option<String>> =
        echoed.into_iter().map(|e| Some(e).filter(|e| !e.is_empty())).collect();
    let mut offsets = vec![0usize; echoed.len()];
    let closing = envelope.clone();
    let chunk = move |index: usize, event: Event| {
        let (mut text, logprob, reason) = match event {
            Event::Started { .. } => return (Vec::new(), false),
            Event::Token { text, logprob, .. } => (text, logprob, None),
            Event::Finished { text, reason, .. } => (text, None, Some(reason_name(reason))),
        };
        if let Some(echo) = echoed[index].take() {
            text.insert_str(0, &echo);
        }
        if text.is_empty() && logprob.is_none() && reason.is_none() {
            return (Vec::new(), false);
        }
        let logprobs = logprob.map(|l| logprobs_json(&tokenizer, &[l], &mut offsets[index]));
        let choice = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason });
        (vec![envelope.wrap(vec![choice])], reason.is_some())
    };
    let last = move |usage: &crate::answers::Usage| {
        with_usage.then(|| {
            let mut value = closing.wrap(Vec::new());
            value["usage"] = usage.json();
            value
        })
    };
    Ok(answers.stream(chunk, last))
}

/// The prompt's text without its begin-of-text token.
fn echo_text(tokenizer: &Tokenizer, prompt: &[u32]) -> String {
    let bos = tokenizer.specials().bos;
    let plain: Vec<u32> = prompt.iter().copied().filter(|&t| t != bos).collect();
    tokenizer.decode(&plain)
}

fn whole_choice(tokenizer: &Tokenizer, index: usize, choice: Choice, echo: &str) -> Value {
    let mut offset = 0;
    let logprobs =
        (!choice.logprobs.is_empty()).then(|| logprobs_json(tokenizer, &choice.logprobs, &mut offset));
    json!({
        "index": index,
        "text": format!("{echo}{}", choice.text),
        "logprobs": logprobs,
        "finish_reason": choice.reason.map(reason_name),
    })
}

/// The legacy form: parallel lists.
fn logprobs_json(tokenizer: &Tokenizer, logprobs: &[TokenLogprob], offset: &mut usize) -> Value {
    let mut offsets = Vec::new();
    for logprob in logprobs {
        offsets.push(*offset);
        *offset += token_text(tokenizer, logprob.token).chars().count();
    }
    let top = |l: &TokenLogprob| -> serde_json::Map<String, Value> {
        l.top.iter().map(|&(token, p)| (token_text(tokenizer, token), json!(p))).collect()
    };
    json!({
        "tokens": logprobs.iter().map(|l| token_text(tokenizer, l.token)).collect::<Vec<_>>(),
        "token_logprobs": logprobs.iter().map(|l| l.logprob).collect::<Vec<_>>(),
        "top_logprobs": logprobs.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
