//! Conditional answers: `ETag` and `If-None-Match`.

use super::error::json_bytes;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// How long a client may keep an answer without asking again.
pub(crate) enum CachePolicy {
    /// The answer may change at any time: the client asks each time.
    Ask,
    /// The answer is about the past: the client keeps it for a minute.
    Closed,
}

/// Returns a JSON answer, or a 304 if the client has it. `tag` is the answer's tag, in quotes.
pub(crate) fn tagged(body: impl Into<Body>, tag: &str, keep: CachePolicy, request: &HeaderMap) -> Response {
    let known = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let is_known = known.flat_map(|tags| tags.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    });
    let mut response = if is_known { StatusCode::NOT_MODIFIED.into_response() } else { json_bytes(body) };
    let headers = response.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        match keep {
            CachePolicy::Ask => HeaderValue::from_static("no-cache"),
            // Not for ever: an instance that is untracked loses its past.
            CachePolicy::Closed => HeaderValue::from_static("private, max-age=60"),
        },
    );
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// Returns the tag of a body: a hash of it.
pub(crate) fn tag_of(body: &[u8]) -> String {
    let hash = blake3::hash(body).to_hex();
    format!("\"{}\"", hash.get(..32).unwrap_or_default())
}
