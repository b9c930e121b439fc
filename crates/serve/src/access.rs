//! Who may use the server: keys, names of the host, and pages of other origins.

use crate::Error;
use crate::reply::ApiError;
use crate::server::App;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// One key a line; empty lines and lines that begin with # are skipped.
pub(crate) fn read_keys(path: &std::path::Path) -> Result<Vec<String>, Error> {
    let problem = |problem: String| Error::Keys { path: path.to_path_buf(), problem };
    let text = std::fs::read_to_string(path)
        .map_err(|e| problem(format!("the file of keys cannot be read: {e}")))?;
    let keys: Vec<String> = (text.lines().map(str::trim))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(String::from)
        .collect();
    if keys.is_empty() {
        return Err(problem("no key in it, so nobody could use the server; write one key a line".into()));
    }
    Ok(keys)
}

/// Lets through who has a key, if keys are asked for.
pub(crate) async fn authorise(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !app.keys.is_empty() {
        let given = key(request.headers()).unwrap_or_default();
        // Every key is compared to its end, so that the time tells nothing.
        let known = app.keys.iter().fold(false, |known, key| known | same(key.as_bytes(), given.as_bytes()));
        if !known {
            let message =
                "this server asks for a key: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`";
            return ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).into_response();
        }
    }
    next.run(request).await
}

/// The key of a request: as OpenAI's clients send it, or as llama-server's and Anthropic's may.
fn key(headers: &HeaderMap) -> Option<&str> {
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return headers.get("x-api-key")?.to_str().ok();
    };
    // The name of the scheme may be written in any case (RFC 9110, 11.1).
    let (scheme, key) = authorization.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| key.trim_start())
}

/// Equality in a time that depends on the length of `given` only.
fn same(key: &[u8], given: &[u8]) -> bool {
    let mut difference = key.len() ^ given.len();
    for (i, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ key[i % key.len()]);
    }
    difference == 0
}

/// A server on the loopback address is meant for this machine: a page of another host whose name was bound to
/// 127.0.0.1 (DNS rebinding) is not let in.
pub(crate) async fn check_host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
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

/// Pages of other origins may use the server only if it was started with `--cors`. A browser asks first, except for
/// the plainest requests; those are refused here.
pub(crate) async fn cross_origin(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else { return next.run(request).await };
    let allowed = app.limits.cors.iter().any(|o| o == "*" || o.as_bytes() == origin.as_bytes());
    if !allowed {
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        let own = origin.as_bytes().ends_with(host) && origin.as_bytes().ends_with(&[b"//", host].concat());
        if own || !app.local {
            return next.run(request).await;
        }
        let message = "pages of other origins may not use this server; --cors ORIGIN lets one in";
        return ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).into_response();
    }
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    // The clients of OpenAI send several headers of their own.
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, Authorization"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}
