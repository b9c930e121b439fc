//! Reading request bodies within limits of size and time.

use crate::Options;
use crate::reply::ApiError;
use crate::server::App;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::StreamExt;

/// How much of a body that is too large is read and thrown away. Clients that only listen when they have sent all would
/// otherwise see a broken connection and not the answer.
const DISCARD: usize = 256 << 20;
/// How long a client may pause in sending a body that is thrown away.
const PAUSE: Duration = Duration::from_secs(2);

/// The JSON value of a request body.
pub(crate) async fn json(body: Body, limits: &Options) -> Result<Value, ApiError> {
    let late =
        |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request body did not arrive in time");
    let patience = Duration::from_secs(limits.request_seconds);
    let bytes = tokio::time::timeout(patience, read(body, limits.max_body_bytes)).await.map_err(late)??;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        ApiError::invalid(None, format!("the request body is not UTF-8 (byte {})", error.valid_up_to()))
    })?;
    serde_json::from_str(text).map_err(|error| {
        ApiError::invalid(None, format!("the request body is not JSON: {error}")).with_code("invalid_json")
    })
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut parts = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await {
        let broken = |error| ApiError::invalid(None, format!("the request body broke off: {error}"));
        let part = part.map_err(broken)?;
        if bytes.len() + part.len() > limit {
            tokio::spawn(discard(parts));
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// Answers a request at once whose `Content-Length` is too large.
pub(crate) async fn refuse_large(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limit = app.limits.max_body_bytes;
    let headers = request.headers();
    let told = headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    if told.is_none_or(|length| length <= limit as u64) {
        return next.run(request).await;
    }
    // A client that asks first does not send the body after this answer.
    if !headers.contains_key(header::EXPECT) {
        tokio::spawn(discard(request.into_body().into_data_stream()));
    }
    too_large(limit).into_response()
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the request body is larger than {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

/// Reads on, while the answer is on its way.
async fn discard(mut parts: BodyDataStream) {
    let mut length = 0;
    while let Ok(Some(Ok(part))) = tokio::time::timeout(PAUSE, parts.next()).await {
        length += part.len();
        if length > DISCARD {
            return;
        }
    }
}
