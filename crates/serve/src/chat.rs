//! `POST /v1/chat/completions`.

use crate::answers::{Answers, Envelope, Usage};
use crate::body;
use crate::dialog::{dialog, encode, take_begun};
use crate::fields::Fields;
use crate::form::Form;
use crate::reply::ApiError;
use crate::sampling::{MAX_SAMPLES, max_tokens, sampling};
use crate::server::App;
use crate::tools::{Dialect, Toolbox};
use crate::turn::Turn;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use herd_infer::{Event, Request};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn chat_completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let value = body::json(body, &app.limits).await?;
    let f = Fields::of(&value)?;
    app.check_model(&f)?;
    let empty_list = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
    for name in ["functions", "modalities", "audio"] {
        f.unsupported(name, |v| empty_list(v) || v == &json!(["text"]))?;
    }
    let tokenizer = app.generator.tokenizer().clone();
    let dialect = Dialect::of(tokenizer.chat_template());
    let tools = Toolbox::read(&f)?;
    let mut dialog = dialog(&f, tools.as_ref(), dialect)?;
    let begun = take_begun(&f, &mut dialog)?;
    let samples = f.whole("n", 1..=MAX_SAMPLES)?.unwrap_or(1) as usize;
    let mut sampling = sampling(&f)?;
    sampling.logprobs = match (f.flag("logprobs")?, f.whole("top_logprobs", 0..=20)?) {
        (true, top) => Some(top.unwrap_or(0) as usize),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            return Err(ApiError::invalid(Some("top_logprobs"), "`top_logprobs` needs `logprobs`: true"));
        }
    };
    let (stream, with_usage) = app.stream_options(&f)?;
    if let Some(form) = Form::with_tools(Form::read(&f)?, tools.as_ref(), dialect, &app)? {
        sampling.constraint = Some(form.compile(&app).await?);
    }
    let prompt = encode(&tokenizer, dialog, begun).await?;
    let names = ["max_completion_tokens", "max_tokens", "n_predict"];
    let default = app.limits.default_max_tokens;
    sampling.max_tokens = max_tokens(&f, &names, default, prompt.len(), app.generator.context())?;
    let mut answers = Answers::start(&app, vec![Request { prompt, samples, sampling }], "messages")?;
    let new_turn = || Turn::new(tokenizer.clone(), tools.as_ref().map(|tools| tools.calls(dialect)));
    let mut turns: Vec<Turn> = (0..samples).map(|_| new_turn()).collect();
    if stream {
        let envelope = Envelope::new("chatcmpl", "chat.completion.chunk", app.name.clone());
        return Ok(stream_chunks(answers, envelope, turns, with_usage));
    }
    while turns.iter().any(|t| !t.finished()) {
        let (index, event) = answers.next().await?;
        turns[index].take(event);
    }
    let envelope = Envelope::new("chatcmpl", "chat.completion", app.name.clone());
    let mut response = envelope.wrap(turns.into_iter().enumerate().map(|(i, turn)| turn.choice(i)).collect());
    answers.usage().tell(&mut response);
    Ok(Json(response).into_response())
}

fn stream_chunks(answers: Answers, envelope: Envelope, mut turns: Vec<Turn>, with_usage: bool) -> Response {
    let closing = envelope.clone();
    let wrap = move |choice: Value| {
        let mut chunk = envelope.wrap(vec![choice]);
        if with_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    let chunk = move |index: usize, event: Event| {
        if let Event::Started { .. } = event {
            // The prompt is computed: every choice begins.
            let delta = json!({ "role": "assistant", "content": "", "refusal": null });
            let choice = |i| json!({ "index": i, "delta": delta, "logprobs": null, "finish_reason": null });
            return ((0..turns.len()).map(|i| wrap(choice(i))).collect(), false);
        }
        let delta = turns[index].take(event);
        let finished = delta.reason.is_some();
        (delta.choices(index).into_iter().map(&wrap).collect(), finished)
    };
    let last = move |usage: &Usage| {
        with_usage.then(|| {
            let mut value = closing.wrap(Vec::new());
            usage.tell(&mut value);
            value
        })
    };
    answers.stream(chunk, last)
}
