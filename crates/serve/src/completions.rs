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
use herd_infer::{Event, FinishReason, Request, TokenLogprob};
use herd_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let value = body::json(body, &app.limits).await?;
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
    // No token of an answer: evaluations ask so for the log-probabilities of their texts.
    let nothing = echo && !stream && f.get("max_tokens").is_some_and(|v| v == 0);
    let mut requests = Vec::new();
    for prompt in prompts.iter().filter(|_| !nothing) {
        let mut sampling = sampling.clone();
        sampling.max_tokens = max_tokens(&f, &["max_tokens"], 16, prompt.len(), app.generator.context())?;
        requests.push(Request { prompt: prompt.clone(), samples: samples as usize, sampling });
    }
    let tokenizer = app.generator.tokenizer().clone();
    let mut echoes = Vec::new();
    for prompt in &prompts {
        let echo = if echo { Echo::of(&app, prompt, sampling.logprobs).await? } else { Echo::default() };
        echoes.extend(std::iter::repeat_n(echo, samples as usize));
    }
    let envelope = Envelope::new("cmpl", "text_completion", app.name.clone());
    if nothing {
        let silent = || Choice { reason: Some(FinishReason::Length), ..Choice::default() };
        let choices = echoes.into_iter().enumerate();
        let choices = choices.map(|(i, echo)| whole_choice(&tokenizer, i, silent(), echo)).collect();
        let mut response = envelope.wrap(choices);
        let tokens: usize = prompts.iter().map(Vec::len).sum();
        response["usage"] =
            json!({ "prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens });
        return Ok(Json(response).into_response());
    }
    let answers = Answers::start(&app, requests, "prompt")?;
    if !stream {
        let (choices, usage) = answers.collect().await?;
        let choices = choices.into_iter().zip(echoes).enumerate();
        let choices = choices.map(|(i, (choice, echo))| whole_choice(&tokenizer, i, choice, echo)).collect();
        let mut response = envelope.wrap(choices);
        usage.tell(&mut response);
        return Ok(Json(response).into_response());
    }
    let mut offsets = vec![0usize; echoes.len()];
    let closing = envelope.clone();
    let chunk = move |index: usize, event: Event| {
        let (text, logprob, reason) = match event {
            Event::Started { .. } => return (Vec::new(), false),
            Event::Token { text, logprob, .. } => (text, logprob, None),
            Event::Finished { text, reason, .. } => (text, None, Some(reason_name(reason))),
        };
        let echo = std::mem::take(&mut echoes[index]);
        let text = echo.text + &text;
        let mut scored = echo.scored;
        scored.extend(logprob.map(Scored::of));
        if text.is_empty() && scored.is_empty() && reason.is_none() {
            return (Vec::new(), false);
        }
        let logprobs = (!scored.is_empty()).then(|| logprobs_json(&tokenizer, &scored, &mut offsets[index]));
        let choice = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason });
        (vec![envelope.wrap(vec![choice])], reason.is_some())
    };
    let last = move |usage: &crate::answers::Usage| {
        with_usage.then(|| {
            let mut value = closing.wrap(Vec::new());
            usage.tell(&mut value);
            value
        })
    };
    Ok(answers.stream(chunk, last))
}

/// A token and what is known of its probability: nothing for the first of a prompt.
#[derive(Clone)]
struct Scored(u32, Option<TokenLogprob>);

impl Scored {
    fn of(logprob: TokenLogprob) -> Self {
        Self(logprob.token, Some(logprob))
    }
}

/// What of a prompt stands before its answer.
#[derive(Clone, Default)]
struct Echo {
    /// Its text without the begin-of-text token.
    text: String,
    /// All of its tokens, if log-probabilities are asked for.
    scored: Vec<Scored>,
}

impl Echo {
    async fn of(app: &Arc<App>, prompt: &[u32], top: Option<usize>) -> Result<Self, ApiError> {
        let tokenizer = app.generator.tokenizer();
        let begin = tokenizer.begin();
        let plain: Vec<u32> = prompt.iter().copied().filter(|&t| Some(t) != begin).collect();
        let mut scored = Vec::new();
        if let (Some(top), Some(&first)) = (top, prompt.first()) {
            // One at a time, as embeddings are.
            let _turn = app.embedding.acquire().await;
            let (generator, tokens) = (app.generator.clone(), prompt.to_vec());
            let work = tokio::task::spawn_blocking(move || generator.score_with_top(&tokens, top));
            let broken = |_| ApiError::invalid(Some("prompt"), "this prompt cannot be scored");
            let scores = work.await.map_err(broken)?.map_err(|e| ApiError::of(e, "prompt"))?;
            scored.push(Scored(first, None));
            scored.extend(scores.into_iter().map(Scored::of));
        }
        Ok(Self { text: tokenizer.decode(&plain), scored })
    }
}

fn whole_choice(tokenizer: &Tokenizer, index: usize, choice: Choice, echo: Echo) -> Value {
    let mut scored = echo.scored;
    scored.extend(choice.logprobs.into_iter().map(Scored::of));
    let logprobs = (!scored.is_empty()).then(|| logprobs_json(tokenizer, &scored, &mut 0));
    json!({
        "index": index,
        "text": echo.text + &choice.text,
        "logprobs": logprobs,
        "finish_reason": choice.reason.map(reason_name),
    })
}

/// The legacy form: parallel lists.
fn logprobs_json(tokenizer: &Tokenizer, scored: &[Scored], offset: &mut usize) -> Value {
    let mut offsets = Vec::new();
    for Scored(token, _) in scored {
        offsets.push(*offset);
        // The begin-of-text token is no part of the echoed text.
        let shown = Some(*token) != tokenizer.begin();
        *offset += if shown { token_text(tokenizer, *token).chars().count() } else { 0 };
    }
    let top = |Scored(_, logprob): &Scored| {
        let pairs = |l: &TokenLogprob| -> serde_json::Map<String, Value> {
            l.top.iter().map(|&(token, p)| (token_text(tokenizer, token), json!(p))).collect()
        };
        logprob.as_ref().map(pairs)
    };
    json!({
        "tokens": scored.iter().map(|s| token_text(tokenizer, s.0)).collect::<Vec<_>>(),
        "token_logprobs": scored.iter().map(|s| s.1.as_ref().map(|l| l.logprob)).collect::<Vec<_>>(),
        "top_logprobs": scored.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
