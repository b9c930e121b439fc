//! `POST /v1/rerank`: how well documents answer a query.
//!
//! A reranker is a model with a head of one output that was trained to score pairs of a query and a document. The
//! similarity of two embeddings says something else, and a language model has no such head: a client that asks one to
//! rerank learns that it cannot, as from llama-server.

use crate::body;
use crate::fields::{Fields, wrong};
use crate::reply::ApiError;
use crate::server::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use std::sync::Arc;

/// Most documents of one request.
const MAX_DOCUMENTS: usize = 2048;

/// Checks the request, then says that a language model cannot do it.
pub(crate) async fn rerank(State(app): State<Arc<App>>, body: Body) -> Result<(), ApiError> {
    let value = body::json(body, &app.limits).await?;
    let f = Fields::of(&value)?;
    app.check_model(&f)?;
    let query = f.required("query")?;
    query.as_str().ok_or_else(|| wrong("query", query, "a string"))?;
    // Older clients of Text Embeddings Inference say `texts`.
    let name = if f.get("texts").is_some() { "texts" } else { "documents" };
    f.required(name)?;
    if f.texts(name, MAX_DOCUMENTS)?.is_empty() {
        return Err(ApiError::invalid(Some(name), format!("`{name}` must be a list of at least one string")));
    }
    let message = "this model cannot rerank: it is a language model without a head that scores a query and a \
                   document; /v1/embeddings gives vectors to compare";
    Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_supported", message))
}
