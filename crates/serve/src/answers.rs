//! From prompts to the news of their answers: what both completion endpoints do in the same way.

use crate::metrics::Metrics;
use crate::reply::ApiError;
use crate::sampling::random_bits;
use crate::server::App;
use crate::slots::Seat;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use herd_infer::{Event, FinishReason, Request, Submitted, TokenLogprob};
use herd_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Sleep;
use tokio_stream::Stream;

/// Requests under way. Dropping it cancels them, which is what happens when the client hangs up.
pub(crate) struct Answers {
    news: UnboundedReceiver<(usize, Event)>,
    usage: Usage,
    choices: usize,
    /// When the answers must be complete.
    deadline: Pin<Box<Sleep>>,
    _running: Vec<Submitted>,
}

/// When an answer was asked for, and when its prompt was computed.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    asked: Instant,
    begun: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self { asked: now, begun: now }
    }

    /// The prompt is computed.
    pub(crate) fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// llama-server's object of speeds: of the tokens of a prompt that were not in the cache, and of those of the answer.
    pub(crate) fn timings(&self, prompt: usize, cached: usize, drawn: usize) -> Value {
        let prompt_ms = (self.begun - self.asked).as_secs_f64() * 1e3;
        let predicted_ms = self.begun.elapsed().as_secs_f64() * 1e3;
        let computed = prompt.saturating_sub(cached);
        let each = |ms: f64, tokens: usize| ms / tokens.max(1) as f64;
        let rate = |ms: f64, tokens: usize| tokens as f64 / (ms / 1e3).max(1e-9);
        json!({
            "cache_n": cached,
            "prompt_n": computed,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": each(prompt_ms, computed),
            "prompt_per_second": rate(prompt_ms, computed),
            "predicted_n": drawn,
            "predicted_ms": predicted_ms,
            "predicted_per_token_ms": each(predicted_ms, drawn),
            "predicted_per_second": rate(predicted_ms, drawn),
        })
    }
}

/// Tokens counted so far, and how long they took.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    prompt: usize,
    cached: usize,
    completion: usize,
    clock: Clock,
}

impl Usage {
    fn start() -> Self {
        Self { prompt: 0, cached: 0, completion: 0, clock: Clock::start() }
    }

    /// Writes `usage`, as OpenAI's clients read it, and llama-server's `timings` into a response.
    pub(crate) fn tell(&self, response: &mut Value) {
        response["usage"] = self.json();
        response["timings"] = self.clock.timings(self.prompt, self.cached, self.completion);
    }

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
            Event::Started { cached_tokens } => {
                self.cached += cached_tokens;
                self.clock.begin();
            }
            Event::Token { .. } => self.completion += 1,
            Event::Finished { .. } => {}
        }
    }
}

/// One complete answer of a text completion.
#[derive(Default)]
pub(crate) struct Choice {
    pub text: String,
    pub logprobs: Vec<TokenLogprob>,
    pub reason: Option<FinishReason>,
}

impl Answers {
    /// Submits all requests; choice i of request r is number `r * samples + i`.
    pub(crate) fn start(app: &App, requests: Vec<Request>, prompt_field: &str) -> Result<Self, ApiError> {
        let (sender, news) = unbounded_channel();
        let mut usage = Usage::start();
        let (mut running, mut choices) = (Vec::new(), 0);
        for request in requests {
            let (first, sender) = (choices, sender.clone());
            let (metrics, arrived) = (app.metrics.clone(), Instant::now());
            let (slots, sampling) = (app.slots.clone(), request.sampling.clone());
            // One for each sample that is being computed.
            let mut seats: Vec<Option<Seat>> = (0..request.samples).map(|_| None).collect();
            choices += request.samples;
            usage.prompt += request.prompt.len();
            let sink = move |event: Event| {
                let index = match &event {
                    Event::Started { .. } => {
                        Metrics::observe_first_token(&metrics, arrived.elapsed());
                        seats.iter_mut().for_each(|seat| *seat = Some(slots.take(&sampling)));
                        first
                    }
                    Event::Token { sample, .. } => {
                        seats[*sample].iter().for_each(Seat::count);
                        first + sample
                    }
                    Event::Finished { sample, .. } => {
                        seats[*sample] = None;
                        first + sample
                    }
                };
                sender.send((index, event)).is_ok()
            };
            let submitted = match first {
                0 => app.batcher.submit_to(request, sink),
                _ => app.batcher.submit_more(request, sink),
            };
            running.push(submitted.map_err(|error| ApiError::of(error, prompt_field))?);
        }
        let deadline = Box::pin(tokio::time::sleep(Duration::from_secs(app.limits.answer_seconds)));
        Ok(Self { news, usage, choices, deadline, _running: running })
    }

    /// The next event and the number of its choice.
    pub(crate) async fn next(&mut self) -> Result<(usize, Event), ApiError> {
        let next = poll_fn(|context| self.poll(context)).await;
        if let Ok((_, event)) = &next {
            self.usage.count(event);
        }
        next
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(usize, Event), ApiError>> {
        if let Poll::Ready(news) = self.news.poll_recv(context) {
            return Poll::Ready(news.ok_or_else(Self::broken));
        }
        ready!(self.deadline.as_mut().poll(context));
        let message = "the answer took longer than this server allows; ask for fewer tokens";
        Poll::Ready(Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)))
    }

    /// Tokens counted so far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// The events ended before the answers did.
    fn broken() -> ApiError {
        let message = "the answer broke off inside the server";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// Waits for all answers.
    pub(crate) async fn collect(mut self) -> Result<(Vec<Choice>, Usage), ApiError> {
        let mut choices: Vec<Choice> = (0..self.choices).map(|_| Choice::default()).collect();
        while choices.iter().any(|c| c.reason.is_none()) {
            let (index, event) = self.next().await?;
            let choice = &mut choices[index];
            match event {
                Event::Started { .. } => {}
                Event::Token { text, logprob, .. } => {
                    choice.text.push_str(&text);
                    choice.logprobs.extend(logprob);
                }
                Event::Finished { text, reason, .. } => {
                    choice.text.push_str(&text);
                    choice.reason = Some(reason);
                }
            }
        }
        Ok((choices, self.usage))
    }

    /// Streams the answers as server-sent events. `chunk` makes the events of one piece of news (none if there is
    /// nothing to show) and says whether its choice is complete; `last` is appended when all are.
    pub(crate) fn stream(
        self,
        chunk: impl FnMut(usize, Event) -> (Vec<Value>, bool) + Send + Unpin + 'static,
        last: impl Fn(&Usage) -> Option<Value> + Send + Unpin + 'static,
    ) -> Response {
        self.frames(chunk, last, "data: [DONE]\n\n")
    }

    /// As [`Answers::stream`], with nothing after the last choice.
    pub(crate) fn stream_plain(
        self,
        chunk: impl FnMut(usize, Event) -> (Vec<Value>, bool) + Send + Unpin + 'static,
    ) -> Response {
        self.frames(chunk, |_| None, "")
    }

    fn frames(
        self,
        mut chunk: impl FnMut(usize, Event) -> (Vec<Value>, bool) + Send + Unpin + 'static,
        last: impl Fn(&Usage) -> Option<Value> + Send + Unpin + 'static,
        end: &'static str,
    ) -> Response {
        let frame = move |answers: &mut Self, news: Result<(usize, Event), ApiError>| {
            let mut frame = String::new();
            let mut push = |value: &Value| frame.push_str(&format!("data: {value}\n\n"));
            match news {
                Ok((index, event)) => {
                    answers.usage.count(&event);
                    let (values, finished) = chunk(index, event);
                    values.iter().for_each(&mut push);
                    answers.choices -= usize::from(finished);
                    if answers.choices == 0 {
                        last(&answers.usage).iter().for_each(&mut push);
                        frame.push_str(end);
                    }
                }
                Err(error) => {
                    push(&error.body());
                    answers.choices = 0;
                }
            }
            frame
        };
        let headers =
            [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
        (headers, Body::from_stream(Frames { answers: self, frame })).into_response()
    }
}

/// The frames of a stream. Owns the requests, so that they end when the connection does, or when all that is wanted
/// has come.
struct Frames<F> {
    answers: Answers,
    frame: F,
}

impl<F: FnMut(&mut Answers, Result<(usize, Event), ApiError>) -> String + Unpin> Stream for Frames<F> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { answers, frame } = &mut *self;
        while answers.choices > 0 {
            let news = ready!(answers.poll(context));
            let frame = frame(answers, news);
            // An empty frame would end a chunked body.
            if !frame.is_empty() {
                return Poll::Ready(Some(Ok(Bytes::from(frame))));
            }
        }
        Poll::Ready(None)
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
