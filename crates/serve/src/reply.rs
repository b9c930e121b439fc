//! Errors in the shape that OpenAI's clients read.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error that a client sees: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub message: String,
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: Some(code) }
    }

    /// The request cannot work; `param` is the field at fault.
    pub(crate) fn invalid(param: Option<&str>, message: impl Into<String>) -> Self {
        let (param, message) = (param.map(String::from), message.into());
        Self { status: StatusCode::BAD_REQUEST, message, param, code: None }
    }

    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// An error of the engine, as the client of an endpoint whose prompt is in `prompt_field` understands it.
    pub(crate) fn of(error: herd_infer::Error, prompt_field: &str) -> Self {
        use herd_infer::Error;
        let message = error.to_string();
        match error {
            Error::Busy { .. } => Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message),
            Error::Closed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down")
            }
            Error::ContextOverflow { .. } => {
                Self::invalid(Some(prompt_field), message).with_code("context_length_exceeded")
            }
            Error::EmptyPrompt | Error::UnknownToken { .. } => Self::invalid(Some(prompt_field), message),
            Error::DoesNotFit { .. } => Self::invalid(Some("max_tokens"), message),
            Error::Samples { .. } => Self::invalid(Some("n"), message),
            Error::Setting(setting) => Self::invalid(Some(&setting.key), message),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message),
        }
    }

    /// The body, also used inside a stream that has begun.
    pub(crate) fn body(&self) -> serde_json::Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            501 => "not_supported_error",
            status if status >= 500 => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
