//! The endpoints that clients of llama.cpp's `llama-server` use beside OpenAI's.

use crate::answers::{Answers, Clock, token_text};
use crate::body;
use crate::dialog::dialog;
use crate::fields::{Fields, wrong};
use crate::form::Form;
use crate::prompts::prompts;
use crate::reply::ApiError;
use crate::sampling::sampling;
use crate::server::App;
use crate::tools::{Dialect, Toolbox};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use herd_infer::{Event, FinishReason, Request, Sampling, TokenLogprob};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The names that llama-server has for fields that OpenAI calls otherwise.
const NAMES: [(&str, &str); 2] = [("n_predict", "max_tokens"), ("repeat_penalty", "repetition_penalty")];
/// Most entries of `response_fields`.
const MAX_RESPONSE_FIELDS: usize = 64;
/// llama-server's defaults that differ from OpenAI's.
const DEFAULTS: [(&str, f64); 4] = [("temperature", 0.8), ("top_p", 0.95), ("min_p", 0.05), ("top_k", 40.0)];

/// `POST /completion`. Several prompts give a list of answers.
pub(crate) async fn completion(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let value = body::json(body, &app.limits).await?;
    let fields = Fields::of(&value)?;
    let prompts = prompts(&app, "prompt", fields.required("prompt")?)?;
    answer(app, &value, prompts, Vec::new()).await
}

/// The answers to some prompts, as `value` asks for them; they end before the first of `ends` too.
pub(crate) async fn answer(
    app: Arc<App>,
    value: &Value,
    prompts: Vec<Vec<u32>>,
    ends: Vec<u32>,
) -> Result<Response, ApiError> {
    let fields = Fields::of(value)?;
    let translated = translated(value);
    let f = Fields::of(&translated)?;
    let mut sampling = sampling(&f)?;
    if !sampling.ignore_end {
        sampling.stop_tokens.extend(ends);
    }
    sampling.logprobs = fields.whole("n_probs", 0..=20)?.filter(|n| *n > 0).map(|n| n as usize);
    let wanted = fields.texts("response_fields", MAX_RESPONSE_FIELDS)?;
    if let Some(form) = Form::read(&fields)? {
        sampling.constraint = Some(form.compile(&app).await?);
    }
    let asked = f.whole("max_tokens", 0..=u64::from(u32::MAX))?;
    let stream = fields.flag("stream")?;
    let (mut requests, mut records) = (Vec::new(), Vec::new());
    for (index, prompt) in prompts.into_iter().enumerate() {
        let room = app.generator.context().saturating_sub(prompt.len());
        sampling.max_tokens = asked.map_or(room, |n| room.min(n as usize)).max(1);
        requests.push(Request { prompt: prompt.clone(), samples: 1, sampling: sampling.clone() });
        let mut record = Record::new(app.clone(), index, prompt, sampling.clone());
        // A client that wants no token wants the prompt in the cache.
        record.silent = asked == Some(0);
        records.push(record);
    }
    let mut answers = Answers::start(&app, requests, "prompt")?;
    if stream {
        let chunk = move |index: usize, event: Event| {
            let record = &mut records[index];
            let (piece, reason) = record.take(event);
            let mut values: Vec<Value> = piece.into_iter().collect();
            values.extend(reason.map(|reason| chosen(record.end(reason, true), &wanted)));
            (values, reason.is_some())
        };
        return Ok(answers.stream_plain(chunk));
    }
    let mut ends = vec![Value::Null; records.len()];
    while ends.iter().any(Value::is_null) {
        let (index, event) = answers.next().await?;
        if let (_, Some(reason)) = records[index].take(event) {
            ends[index] = chosen(records[index].end(reason, false), &wanted);
        }
    }
    let whole = if ends.len() == 1 { ends.remove(0) } else { ends.into() };
    Ok(Json(whole).into_response())
}

/// The fields of an answer that a client wants (`response_fields`), all if it names none: a path such as
/// `timings/prompt_n` becomes one field of that name, and what is not there is left out.
fn chosen(whole: Value, wanted: &[String]) -> Value {
    if wanted.is_empty() {
        return whole;
    }
    let of = |path: &String| Some((path.clone(), whole.pointer(&format!("/{path}"))?.clone()));
    Value::Object(wanted.iter().filter_map(of).collect())
}

/// The request with OpenAI's names and llama-server's defaults.
fn translated(value: &Value) -> Value {
    let mut fields = value.as_object().cloned().unwrap_or_default();
    for (theirs, ours) in NAMES {
        if let Some(value) = fields.remove(theirs) {
            fields.insert(ours.into(), value);
        }
    }
    // -1 says "without end" and "random".
    for name in ["max_tokens", "seed"] {
        if fields.get(name).and_then(Value::as_i64).is_some_and(|n| n < 0) {
            fields.remove(name);
        }
    }
    if fields.get("top_k").and_then(Value::as_i64).is_some_and(|k| k < 0) {
        fields.insert("top_k".into(), 0.into());
    }
    for (name, default) in DEFAULTS {
        let default = if name == "top_k" { json!(default as u64) } else { json!(default) };
        fields.entry(name).or_insert(default);
    }
    if let Some(Value::Array(pairs)) = fields.get("logit_bias") {
        let pairs =
            pairs.iter().map(|p| (p[0].to_string(), if p[1] == false { json!(-100) } else { p[1].clone() }));
        let map: Map<String, Value> = pairs.collect();
        fields.insert("logit_bias".into(), map.into());
    }
    Value::Object(fields)
}

/// One answer, and how long it took.
struct Record {
    app: Arc<App>,
    index: usize,
    /// Nothing of the answer is wanted.
    silent: bool,
    prompt: Vec<u32>,
    sampling: Sampling,
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
    cached: usize,
    clock: Clock,
}

impl Record {
    fn new(app: Arc<App>, index: usize, prompt: Vec<u32>, sampling: Sampling) -> Self {
        let (clock, text, tokens, logprobs) = (Clock::start(), String::new(), Vec::new(), Vec::new());
        Self { app, index, silent: false, prompt, sampling, text, tokens, logprobs, cached: 0, clock }
    }

    /// Takes the next event; what of it a stream shows, and why the answer ended.
    fn take(&mut self, event: Event) -> (Option<Value>, Option<FinishReason>) {
        let mut probabilities = Vec::new();
        let (text, token, reason) = match event {
            Event::Started { cached_tokens } => {
                self.cached = cached_tokens;
                self.clock.begin();
                return (None, None);
            }
            Event::Token { .. } if self.silent => return (None, None),
            Event::Finished { reason, .. } if self.silent => return (None, Some(reason)),
            Event::Token { token, text, logprob, .. } => {
                self.tokens.push(token);
                probabilities.extend(logprob.as_ref().map(|l| self.probability(l)));
                self.logprobs.extend(logprob);
                (text, Some(token), None)
            }
            Event::Finished { text, reason, .. } => (text, None, Some(reason)),
        };
        self.text.push_str(&text);
        if text.is_empty() && probabilities.is_empty() {
            return (None, reason);
        }
        let tokens = Vec::from_iter(token);
        let mut piece =
            json!({ "index": self.index, "content": text, "tokens": tokens, "stop": false, "id_slot": 0 });
        if !probabilities.is_empty() {
            piece["completion_probabilities"] = probabilities.into();
        }
        (Some(piece), reason)
    }

    /// A token and the likeliest ones in its place.
    fn probability(&self, logprob: &TokenLogprob) -> Value {
        let tokenizer = self.app.generator.tokenizer();
        let entry = |token: u32, logprob: f32| json!({ "id": token, "token": token_text(tokenizer, token), "bytes": tokenizer.token_bytes(token), "logprob": logprob });
        let mut value = entry(logprob.token, logprob.logprob);
        value["top_logprobs"] = logprob.top.iter().map(|&(token, p)| entry(token, p)).collect();
        value
    }

    /// The last object of a stream, or the whole answer.
    fn end(&self, reason: FinishReason, streamed: bool) -> Value {
        let tokenizer = self.app.generator.tokenizer();
        let all = tokenizer.decode(&self.tokens);
        let word = self
            .sampling
            .stop
            .iter()
            .find(|stop| reason == FinishReason::Stop && all.contains(stop.as_str()));
        let stop_type = match (reason, word) {
            (FinishReason::Length, _) => "limit",
            (_, Some(_)) => "word",
            _ => "eos",
        };
        let drawn = self.tokens.len();
        let mut value = json!({
            "index": self.index,
            "content": if streamed { "" } else { &self.text },
            "tokens": if streamed { &[] } else { self.tokens.as_slice() },
            "id_slot": 0,
            "stop": true,
            "model": &*self.app.name,
            "tokens_predicted": drawn,
            "tokens_evaluated": self.prompt.len(),
            "tokens_cached": self.cached,
            "generation_settings": settings(&self.sampling),
            "prompt": tokenizer.decode(&self.prompt),
            "has_new_line": self.text.contains('\n'),
            "truncated": false,
            "stop_type": stop_type,
            "stopping_word": word.cloned().unwrap_or_default(),
            "timings": self.clock.timings(self.prompt.len(), self.cached, drawn),
        });
        if self.sampling.logprobs.is_some() && !streamed {
            value["completion_probabilities"] = self.logprobs.iter().map(|l| self.probability(l)).collect();
        }
        value
    }
}

/// How answers are drawn, in llama-server's words.
pub(crate) fn settings(sampling: &Sampling) -> Value {
    json!({
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
        "stop": sampling.stop,
        "n_predict": sampling.max_tokens,
        "ignore_eos": sampling.ignore_end,
    })
}

/// `POST /tokenize`.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, ApiError> {
    let value = body::json(body, &app.limits).await?;
    let f = Fields::of(&value)?;
    let content = f.required("content")?;
    let text = content.as_str().ok_or_else(|| wrong("content", content, "a string"))?;
    let tokenizer = app.generator.tokenizer();
    let special = f.get("parse_special").is_none() || f.flag("parse_special")?;
    let mut tokens = Vec::new();
    if f.flag("add_special")? {
        tokens.extend(tokenizer.begin());
    }
    tokens.extend(if special { tokenizer.encode_with_special(text) } else { tokenizer.encode(text) });
    if !f.flag("with_pieces")? {
        return Ok(Json(json!({ "tokens": tokens })));
    }
    let piece = |&token: &u32| {
        let bytes = tokenizer.token_bytes(token);
        let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
        json!({ "id": token, "piece": piece })
    };
    Ok(Json(json!({ "tokens": tokens.iter().map(piece).collect::<Vec<_>>() })))
}

/// `POST /detokenize`.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, ApiError> {
    let value = body::json(body, &app.limits).await?;
    let f = Fields::of(&value)?;
    let list = f.required("tokens")?;
    let id = |v: &Value| v.as_u64().and_then(|t| u32::try_from(t).ok());
    let tokens = list.as_array().and_then(|list| list.iter().map(id).collect::<Option<Vec<u32>>>());
    let tokens = tokens.ok_or_else(|| wrong("tokens", list, "a list of token ids"))?;
    Ok(Json(json!({ "content": app.generator.tokenizer().decode(&tokens) })))
}

/// `POST /apply-template`: the text that the model would read.
pub(crate) async fn apply_template(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, ApiError> {
    let value = body::json(body, &app.limits).await?;
    let f = Fields::of(&value)?;
    let tokenizer = app.generator.tokenizer();
    let dialect = Dialect::of(tokenizer.chat_template());
    let dialog = dialog(&f, Toolbox::read(&f)?.as_ref(), dialect)?;
    let text = tokenizer.compiled_template().and_then(|template| template.render(&dialog));
    let text = text.map_err(|e| ApiError::invalid(Some("messages"), e.to_string()))?;
    Ok(Json(json!({ "prompt": text })))
}

/// `GET /props`.
pub(crate) async fn props(State(app): State<Arc<App>>) -> Json<Value> {
    let tokenizer = app.generator.tokenizer();
    let name = |token: Option<u32>| token.map(|t| token_text(tokenizer, t)).unwrap_or_default();
    Json(json!({
        "default_generation_settings": {
            "n_ctx": app.generator.context(),
            "params": settings(&Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Sampling::default() }),
        },
        "total_slots": app.generator.settings().max_sequences,
        "model_path": &*app.name,
        "model_alias": &*app.name,
        "modalities": { "vision": false, "audio": false, "video": false },
        "endpoint_slots": true,
        "endpoint_metrics": true,
        "endpoint_props": false,
        "is_sleeping": false,
        "chat_template": tokenizer.chat_template(),
        "bos_token": name(tokenizer.bos()),
        "eos_token": name(tokenizer.eos()),
        "build_info": concat!("herd-", env!("CARGO_PKG_VERSION")),
    }))
}
