//! From prompts to the news of their answers: what both completion endpoints do in the same way.

use crate::metrics::Metrics;
use crate::reply::ApiError;
use crate::sampling::random_bits;
use crate::server::App;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use herd_infer::{Event, FinishReason, Request, Submitted, TokenLogprob};
use herd_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Requests under way. Dropping it cancels them, which is what happens when the client hangs up.
pub(crate) struct Answers {
    news: UnboundedReceiver<(usize, Event)>,
    usage: Usage,
    choices: usize,
    _running: Vec<Submitted>,
}

/// Tokens counted so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    prompt: usize,
    cached: usize,
    completion: usize,
}

impl Usage {
    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Started { cached_tokens } => self.cached += cached_tokens,
            Event::Token { .. } => self.completion += 1,
            Event::Finished { .. } => {}
        }
    }
}

/// One complete answer.
#[derive(Default)]
pub(crate) struct Choice {
    pub text: String,
    /// Tokens with the text that each released.
    pub tokens: Vec<u32>,
    pub logprobs: Vec<TokenLogprob>,
    pub reason: Option<FinishReason>,
}

/// The name that OpenAI's clients know.
pub(crate) fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::Cancelled => "stop",
    }
}

impl Answers {
    /// Submits all requests; choice i of request r is number `r * samples + i`.
    pub(crate) fn start(app: &App, requests: Vec<Request>, prompt_field: &str) -> Result<Self, ApiError> {
        let (sender, news) = unbounded_channel();
        let mut usage = Usage::default();
        let (mut running, mut choices) = (Vec::new(), 0);
        for request in requests {
            let (first, sender) = (choices, sender.clone());
            let (metrics, arrived) = (app.metrics.clone(), Instant::now());
            choices += request.samples;
            usage.prompt += request.prompt.len();
            let sink = move |event: Event| {
                let index = match &event {
                    Event::Started { .. } => {
                        Metrics::observe_first_token(&metrics, arrived.elapsed());
                        first
                    }
                    Event::Token { sample, .. } | Event::Finished { sample, .. } => first + sample,
                };
                sender.send((index, event)).is_ok()
            };
            let submitted = app.batcher.submit_to(request, sink);
            running.push(submitted.map_err(|error| ApiError::of(error, prompt_field))?);
        }
        Ok(Self { news, usage, choices, _running: running })
    }

    /// Waits for all answers.
    pub(crate) async fn collect(mut self) -> Result<(Vec<Choice>, Usage), ApiError> {
        let mut choices: Vec<Choice> = (0..self.choices).map(|_| Choice::default()).collect();
        while let Some((index, event)) = self.news.recv().await {
            self.usage.count(&event);
            let choice = &mut choices[index];
            match event {
                Event::Started { .. } => {}
                Event::Token { token, text, logprob, .. } => {
                    choice.tokens.push(token);
                    choice.text.push_str(&text);
                    choice.logprobs.extend(logprob);
                }
                Event::Finished { text, reason, .. } => {
                    choice.text.push_str(&text);
                    choice.reason = Some(reason);
                }
            }
        }
        if choices.iter().any(|c| c.reason.is_none()) {
            let message = "the answer broke off inside the server";
            return Err(ApiError::new(
                axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                message,
            ));
        }
        Ok((choices, self.usage))
    }

    /// Streams the answers as server-sent events. `chunk` makes the events of one piece of news (none if there is
    /// nothing to show); `last` is appended when all answers are complete.
    pub(crate) fn stream(
        self,
        mut chunk: impl FnMut(usize, Event) -> Vec<Value> + Send + 'static,
        last: impl Fn(&Usage) -> Option<Value> + Send + 'static,
    ) -> Response {
        let Self { news, mut usage, choices, _running } = self;
        let mut open = choices;
        let frames = UnboundedReceiverStream::new(news).map(move |(index, event)| {
            // Owned by the stream, so that the requests end when the connection does.
            let _ = &_running;
            usage.count(&event);
            open -= usize::from(matches!(event, Event::Finished { .. }));
            let mut frame = String::new();
            let mut push = |value: &Value| frame.push_str(&format!("data: {value}\n\n"));
            chunk(index, event).iter().for_each(&mut push);
            if open == 0 {
                last(&usage).iter().for_each(&mut push);
                frame.push_str("data: [DONE]\n\n");
            }
            Ok::<_, std::convert::Infallible>(Bytes::from(frame))
        });
        // An empty frame would end a chunked body.
        let frames = frames.filter(|frame| frame.as_ref().is_ok_and(|f| !f.is_empty()));
        let headers =
            [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
        (headers, Body::from_stream(frames)).into_response()
    }
}

/// What all objects of one response share.
#[derive(Clone)]
pub(crate) struct Envelope {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub model: Arc<str>,
}

impl Envelope {
    pub(crate) fn new(prefix: &str, object: &'static str, model: Arc<str>) -> Self {
        let id = format!("{prefix}-{:016x}{:016x}", random_bits(), random_bits());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self { id, object, created, model }
    }

    pub(crate) fn wrap(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": &*self.model,
            "system_fingerprint": concat!("herd-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }
}

/// A token as text; bytes that are no text by themselves become U+FFFD.
pub(crate) fn token_text(tokenizer: &Tokenizer, token: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned()
}
