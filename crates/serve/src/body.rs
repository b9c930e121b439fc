//! Reading request bodies within limits of size and time.

use crate::reply::ApiError;
use axum::body::Body;
use axum::http::StatusCode;
use serde_json::Value;
use std::time::Duration;
use tokio_stream::StreamExt;

/// Time for a body to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read and thrown away, so that the client is listening when it is told.
const DISCARD: usize = 256 << 20;

/// The JSON value of a request body.
pub(crate) async fn json(body: Body, limit: usize) -> Result<Value, ApiError> {
    let late =
        |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request body did not arrive in time");
    let bytes = tokio::time::timeout(PATIENCE, read(body, limit)).await.map_err(late)??;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        ApiError::invalid(None, format!("the request body is not UTF-8 (byte {})", error.valid_up_to()))
    })?;
    serde_json::from_str(text).map_err(|error| {
        ApiError::invalid(None, format!("the request body is not JSON: {error}")).with_code("invalid_json")
    })
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut parts = body.into_data_stream();
    let (mut bytes, mut length) = (Vec::new(), 0usize);
    while let Some(part) = parts.next().await {
        let broken = |error| ApiError::invalid(None, format!("the request body broke off: {error}"));
        let part = part.map_err(broken)?;
        length += part.len();
        if length <= limit {
            bytes.extend_from_slice(&part);
        } else {
            bytes = Vec::new();
            if length > DISCARD {
                break;
            }
        }
    }
    if length > limit {
        let message = format!("the request body is larger than {limit} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
    }
    Ok(bytes)
}
