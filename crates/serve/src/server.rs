//! The routes, who may use them, and the life of the server.

use crate::chat::chat_completions;
use crate::completions::completions;
use crate::fields::Fields;
use crate::form::Compiled;
use crate::metrics::Metrics;
use crate::reply::ApiError;
use crate::{Error, Options};
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use herd_infer::{Batcher, Generator};
use herd_run::Context;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

/// The chat page in one piece; it loads nothing else.
const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Herd</title>\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1, interactive-widget=resizes-content\">\n",
    "<link rel=\"icon\" href=\"data:,\">\n<style>\n",
    include_str!("page/chat.css"),
    "</style>\n</head>\n<body>\n",
    include_str!("page/chat.html"),
    "<script>\n",
    include_str!("page/markdown.js"),
    include_str!("page/chat.js"),
    "</script>\n</body>\n</html>\n",
);
/// What the page may do: be itself and talk to this server.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";
/// How often a running server looks whether it is to stop.
const STOP_POLL: Duration = Duration::from_millis(50);

/// What requests share.
pub(crate) struct App {
    pub generator: Generator,
    pub batcher: Batcher,
    pub name: Arc<str>,
    pub limits: Options,
    pub metrics: Arc<Metrics>,
    pub compiled: Compiled,
    keys: Vec<String>,
    /// Listens on this machine only, so that only names of this machine can be meant.
    local: bool,
}

impl App {
    /// The model of a request, if it names one, must be the one that is here.
    pub(crate) fn check_model(&self, f: &Fields<'_>) -> Result<(), ApiError> {
        match f.text("model")? {
            Some(name) if name != &*self.name => {
                let message =
                    format!("the model `{name}` does not exist here; this server has `{}`", self.name);
                let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
                Err(ApiError { param: Some("model".into()), ..error })
            }
            _ => Ok(()),
        }
    }

    /// Whether to stream, and whether to end the stream with the usage.
    pub(crate) fn stream_options(&self, f: &Fields<'_>) -> Result<(bool, bool), ApiError> {
        let stream = f.flag("stream")?;
        let usage = match f.get("stream_options") {
            None => false,
            Some(_) if !stream => {
                return Err(ApiError::invalid(
                    Some("stream_options"),
                    "`stream_options` needs `stream`: true",
                ));
            }
            Some(options) => Fields::of(options)
                .map_err(|_| ApiError::invalid(Some("stream_options"), "`stream_options` must be an object"))?
                .flag("include_usage")?,
        };
        Ok((stream, usage))
    }

    fn model_json(&self) -> Value {
        json!({
            "id": &*self.name,
            "object": "model",
            "created": 0,
            "owned_by": "herd",
            "context_length": self.generator.context(),
            "parameters": self.generator.config().parameters(),
        })
    }
}

/// A server that listens but does not answer yet.
pub struct Server {
    listener: TcpListener,
    app: Arc<App>,
}

impl Server {
    /// Takes the address of `options`; port 0 takes any free one.
    ///
    /// # Errors
    /// The address is taken or not this machine's, or the file of keys cannot be read.
    pub fn bind(generator: Generator, name: &str, options: &Options) -> Result<Self, Error> {
        let address = SocketAddr::new(options.host, options.port);
        let fail = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let keys = match &options.keys {
            Some(path) => read_keys(path)?,
            None => Vec::new(),
        };
        let app = App {
            batcher: Batcher::new(&generator)?,
            generator,
            name: name.into(),
            limits: options.clone(),
            metrics: Arc::default(),
            compiled: Compiled::default(),
            keys,
            local: options.host.is_loopback(),
        };
        Ok(Self { listener, app: Arc::new(app) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        let address = SocketAddr::new(self.app.limits.host, self.app.limits.port);
        self.listener.local_addr().map_err(|source| Error::Listen { address, source })
    }

    /// Answers until `ctx.stop` is raised, then finishes what is running, for at most `grace_seconds`.
    ///
    /// # Errors
    /// The system refuses threads or connections.
    pub fn run(self, ctx: &Context) -> Result<(), Error> {
        let address = self.address()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|source| Error::Listen { address, source })?;
        let (stop, app) = (ctx.stop.clone(), self.app.clone());
        let grace = Duration::from_secs(app.limits.grace_seconds);
        let stopped = move || {
            let stop = stop.clone();
            async move {
                while !stop.requested() {
                    tokio::time::sleep(STOP_POLL).await;
                }
            }
        };
        let routes = routes(self.app);
        let result = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let closing = {
                let stopped = stopped();
                async move {
                    stopped.await;
                    app.batcher.close();
                }
            };
            let serving = axum::serve(listener, routes).with_graceful_shutdown(closing);
            let late = async {
                stopped().await;
                tokio::time::sleep(grace).await;
            };
            tokio::select! {
                result = serving.into_future() => result,
                () = late => Ok(()),
            }
        });
        // What did not end in time is dropped, which cancels it.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result.map_err(|source| Error::Listen { address, source })
    }
}

/// One key a line; empty lines and lines that begin with # are skipped.
fn read_keys(path: &std::path::Path) -> Result<Vec<String>, Error> {
    let problem = |problem: String| Error::Keys { path: path.to_path_buf(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| problem(e.to_string()))?;
    let keys: Vec<String> = (text.lines().map(str::trim))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(String::from)
        .collect();
    if keys.is_empty() {
        return Err(problem("no key in it, so nobody could use the server; write one key a line".into()));
    }
    Ok(keys)
}

fn routes(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .layer(from_fn_with_state(app.clone(), authorise));
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .merge(api)
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "unknown_url", "there is nothing at this address")
        })
        .method_not_allowed_fallback(|| async {
            let message = "this address does not take this method";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .layer(from_fn_with_state(app.clone(), count))
        .layer(from_fn_with_state(app.clone(), check_host))
        .with_state(app)
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(PAGE)).into_response()
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(&app.batcher.load());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [app.model_json()] }))
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    if *id == *app.name {
        return Ok(Json(app.model_json()));
    }
    let message = format!("the model `{id}` does not exist here; this server has `{}`", app.name);
    Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message))
}

/// Lets through who has a key, if keys are asked for.
async fn authorise(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !app.keys.is_empty() {
        let given = bearer(request.headers()).unwrap_or_default();
        // Every key is compared to its end, so that the time tells nothing.
        let known = app.keys.iter().fold(false, |known, key| known | same(key.as_bytes(), given.as_bytes()));
        if !known {
            let message = "this server asks for a key: send it as `Authorization: Bearer KEY`";
            return ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).into_response();
        }
    }
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Equality in a time that depends on the length of `given` only.
fn same(key: &[u8], given: &[u8]) -> bool {
    let mut difference = key.len() ^ given.len();
    for (i, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ key[i % key.len()]);
    }
    difference == 0
}

/// Counts requests by route and status.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_string());
    let response = next.run(request).await;
    app.metrics.count_request(route.as_deref().unwrap_or("other"), response.status().as_u16());
    response
}

/// A server on the loopback address is meant for this machine: a page of another host whose name was bound to
/// 127.0.0.1 (DNS rebinding) is not let in.
async fn check_host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if app.local {
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
        let name =
            host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(n, _)| n);
        let plain = name.trim_start_matches('[').trim_end_matches(']');
        let local = plain.eq_ignore_ascii_case("localhost")
            || plain.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !local {
            let message = format!("this server listens on this machine only, not as `{name}`");
            return ApiError::new(StatusCode::FORBIDDEN, "wrong_host", message).into_response();
        }
    }
    next.run(request).await
}
