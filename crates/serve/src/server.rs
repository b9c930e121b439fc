//! The routes, who may use them, and the life of the server.

use crate::access::{authorise, check_host, cross_origin, read_keys};
use crate::chat::chat_completions;
use crate::completions::completions;
use crate::embeddings::embeddings;
use crate::fields::Fields;
use crate::form::Compiled;
use crate::infill::infill;
use crate::metrics::Metrics;
use crate::reply::ApiError;
use crate::rerank::rerank;
use crate::slots::Slots;
use crate::{Error, Options, body, connections, native, slots};
use axum::body::Body;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use herd_infer::{Batcher, Generator};
use herd_run::Context;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tower::ServiceExt;

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
/// The description of the API.
const OPENAPI: &str = include_str!("openapi.json");
/// How often a running server looks whether it is to stop.
const STOP_POLL: Duration = Duration::from_millis(50);

/// What requests share.
pub(crate) struct App {
    pub generator: Generator,
    pub batcher: Batcher,
    pub name: Arc<str>,
    pub limits: Options,
    pub metrics: Arc<Metrics>,
    pub slots: Arc<Slots>,
    pub compiled: Compiled,
    pub keys: Vec<String>,
    /// Listens on this machine only, so that only names of this machine can be meant.
    pub local: bool,
    /// One text after the other is made a vector, so that their caches do not add up.
    pub embedding: Semaphore,
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

    /// OpenAI's description of the model, and with `meta` llama-server's.
    fn model_json(&self) -> Value {
        let config = self.generator.config();
        json!({
            "id": &*self.name,
            "object": "model",
            "created": 0,
            "owned_by": "herd",
            "aliases": [&*self.name],
            "tags": [],
            "context_length": self.generator.context(),
            "parameters": config.parameters(),
            "meta": {
                "n_vocab": config.vocab_size,
                "n_ctx": self.generator.context(),
                "n_ctx_train": config.max_position_embeddings,
                "n_embd": config.hidden_size,
                "n_params": config.parameters(),
            },
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
        Self::on(listen(options)?, generator, name, options)
    }

    /// As [`Server::bind`], on an address that is taken already.
    pub(crate) fn on(
        listener: TcpListener,
        generator: Generator,
        name: &str,
        options: &Options,
    ) -> Result<Self, Error> {
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
            slots: Arc::default(),
            compiled: Compiled::default(),
            keys,
            local: options.host.is_loopback(),
            embedding: Semaphore::new(1),
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

    /// The status and the body that answer one request, without a network: for tests and fuzzing.
    ///
    /// # Errors
    /// The system refuses threads.
    pub fn answer(&self, method: &str, path: &str, body: Vec<u8>) -> std::io::Result<(u16, Vec<u8>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let request = Request::builder().method(method).uri(path).body(Body::from(body));
        let request = request.map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?;
        runtime.block_on(async {
            let Ok(response) = routes(self.app.clone()).oneshot(request).await;
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
            Ok((status, body.map_err(std::io::Error::other)?.to_vec()))
        })
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
        let result = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let closing = {
                let stopped = stopped();
                async move {
                    stopped.await;
                    app.batcher.close();
                }
            };
            let patience = Duration::from_secs(self.app.limits.request_seconds);
            let serving = connections::serve(listener, routes(self.app), patience, closing);
            let late = async {
                stopped().await;
                tokio::time::sleep(grace).await;
            };
            tokio::select! {
                () = serving => Ok(()),
                () = late => Ok(()),
            }
        });
        // What did not end in time is dropped, which cancels it.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result.map_err(|source| Error::Listen { address, source })
    }
}

/// Takes the address of `options`.
pub(crate) fn listen(options: &Options) -> Result<TcpListener, Error> {
    let address = SocketAddr::new(options.host, options.port);
    let fail = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

/// What needs a key, if keys are asked for. llama-server's names stand beside OpenAI's.
fn api_routes() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/v1/chat/completions", post(chat_completions)),
        ("/chat/completions", post(chat_completions)),
        ("/v1/completions", post(completions)),
        ("/v1/embeddings", post(embeddings)),
        ("/embeddings", post(embeddings)),
        ("/v1/models", get(models)),
        ("/models", get(models)),
        ("/v1/models/{*id}", get(model)),
        ("/models/{*id}", get(model)),
        ("/completion", post(native::completion)),
        ("/completions", post(native::completion)),
        ("/tokenize", post(native::tokenize)),
        ("/detokenize", post(native::detokenize)),
        ("/apply-template", post(native::apply_template)),
        ("/infill", post(infill)),
        ("/rerank", post(rerank)),
        ("/reranking", post(rerank)),
        ("/v1/rerank", post(rerank)),
        ("/v1/reranking", post(rerank)),
        ("/slots", get(slots::slots)),
        ("/slots/{id}", post(slots::action)),
        ("/props", get(native::props)),
        ("/metrics", get(metrics)),
    ]
}

/// What everyone may read.
fn open_routes() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/", get(page)),
        ("/health", get(health)),
        ("/v1/health", get(health)),
        ("/openapi.json", get(openapi)),
    ]
}

fn routes(app: Arc<App>) -> Router {
    let add = |router: Router<Arc<App>>, (path, methods): (&str, MethodRouter<Arc<App>>)| {
        router.route(path, methods)
    };
    let api = api_routes()
        .into_iter()
        .fold(Router::new(), add)
        .layer(from_fn_with_state(app.clone(), body::refuse_large))
        .layer(from_fn_with_state(app.clone(), authorise));
    (open_routes().into_iter().fold(Router::new(), add))
        .merge(api)
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "unknown_url", "there is nothing at this address")
        })
        .method_not_allowed_fallback(|| async {
            let message = "this address does not take this method";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .layer(from_fn_with_state(app.clone(), cross_origin))
        .layer(from_fn_with_state(app.clone(), count))
        .layer(from_fn_with_state(app.clone(), check_host))
        .with_state(app)
}

/// The description of the API (OpenAPI 3.1).
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
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

/// Counts requests by route and status.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_string());
    let response = next.run(request).await;
    app.metrics.count_request(route.as_deref().unwrap_or("other"), response.status().as_u16());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_every_route_and_no_other() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut told: Vec<String> = description["paths"].as_object().unwrap().keys().cloned().collect();
        // A name may have slashes in it.
        let mut there: Vec<String> =
            api_routes().iter().chain(&open_routes()).map(|r| r.0.replace("{*id}", "{id}")).collect();
        told.sort_unstable();
        there.sort_unstable();
        assert_eq!(told, there);
        // Where no key is needed, it says so.
        for (path, methods) in description["paths"].as_object().unwrap() {
            let open = methods.as_object().unwrap().values().all(|m| m["security"] == json!([]));
            assert_eq!(open, open_routes().iter().any(|r| r.0 == path), "{path}");
        }
        // Every reference leads somewhere.
        let text = OPENAPI.split("\"$ref\": \"#").skip(1).map(|rest| rest.split('"').next().unwrap());
        for pointer in text {
            assert!(description.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
