//! `POST /v1/embeddings`: texts as vectors.

use crate::body;
use crate::fields::{Fields, wrong};
use crate::prompts::prompts;
use crate::reply::ApiError;
use crate::server::App;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use herd_infer::Pooling;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn embeddings(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, ApiError> {
    let value = body::json(body, &app.limits).await?;
    let f = Fields::of(&value)?;
    app.check_model(&f)?;
    let given = f.required("input")?;
    if let Some(place) = empty_text(given) {
        let message = format!("`{place}` is empty; an embedding needs a text");
        return Err(ApiError::invalid(Some(&place), message));
    }
    let inputs = prompts(&app, "input", given)?;
    let one_of = |name: &str, known: [&str; 2]| match f.text(name)? {
        None => Ok(0),
        Some(given) => (known.iter().position(|k| *k == given))
            .ok_or_else(|| wrong(name, &given.into(), &format!("one of {}", known.join(", ")))),
    };
    let base64 = one_of("encoding_format", ["float", "base64"])? == 1;
    let pooling = [Pooling::Mean, Pooling::Last][one_of("pooling", ["mean", "last"])?];
    let size = app.generator.embedding_size();
    let dimensions = f.whole("dimensions", 1..=size as u64)?.map_or(size, |d| d as usize);
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    let mut data = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.into_iter().enumerate() {
        // One at a time, and none after the client has gone: then this function is not called again.
        let _turn = app.embedding.acquire().await;
        let generator = app.generator.clone();
        let vector = tokio::task::spawn_blocking(move || generator.embed(&input, pooling)).await;
        let broken = |_| ApiError::invalid(Some("input"), format!("input {index} cannot be embedded"));
        let mut vector = vector.map_err(broken)?.map_err(|e| ApiError::of(e, "input"))?;
        shorten(&mut vector, dimensions);
        let embedding = if base64 { to_base64(&vector).into() } else { json!(vector) };
        data.push(json!({ "object": "embedding", "index": index, "embedding": embedding }));
    }
    Ok(Json(json!({
        "object": "list",
        "data": data,
        "model": &*app.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

/// Where an input stands that is an empty text or an empty list.
fn empty_text(input: &Value) -> Option<String> {
    let nothing =
        |v: &Value| v.as_str().is_some_and(str::is_empty) || v.as_array().is_some_and(Vec::is_empty);
    match input {
        given if nothing(given) => Some("input".into()),
        Value::Array(list) => list.iter().position(nothing).map(|index| format!("input[{index}]")),
        _ => None,
    }
}

/// The first `dimensions` of a vector, of length 1 again.
fn shorten(vector: &mut Vec<f32>, dimensions: usize) {
    if dimensions < vector.len() {
        vector.truncate(dimensions);
        let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
}

/// Little-endian f32, as OpenAI's clients ask for it.
fn to_base64(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let of = (bits >> (18 - 6 * digit) & 63) as usize;
            out.push(if digit <= three.len() { DIGITS[of] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_others_write_it() {
        // python3 -c 'import base64, struct; print(base64.b64encode(struct.pack("<2f", 1, -0.5)).decode())'
        assert_eq!(to_base64(&[1.0, -0.5]), "AACAPwAAAL8=");
        assert_eq!(to_base64(&[1.0]), "AACAPw==");
        assert_eq!(to_base64(&[0.1, 0.2, 0.3]), "zczMPc3MTD6amZk+");
        let mut vector = vec![3.0, 4.0, 12.0];
        shorten(&mut vector, 2);
        assert_eq!(vector, [0.6, 0.8]);
    }
}
