use super::answer_memory;
use super::error::ApiError;
use super::peer::Peer;
use crate::App;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a body that extend its deadline by a second.
const SLOWEST: f64 = (16 << 10) as f64;

/// Checks that a body is sent as JSON. The default type of curl is accepted, too: no page can have a browser send that
/// with a token.
pub(crate) fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    const TAKEN: [&str; 2] = ["application/json", "application/x-www-form-urlencoded"];
    if content_type(headers).is_none_or(|given| TAKEN.contains(&given.as_str())) {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported Content-Type; send application/json"))
}

/// Bytes of the largest body that does not count for the memory of answers and bodies.
const SMALL: usize = 4 << 10;

/// Bytes that a longer body of unknown length counts for first. Beyond, it counts for as much as it may have.
const USUAL: usize = 64 << 10;

/// Reads a body of at most `most` bytes, which has to arrive in time. A large body reserves twice its length in its
/// client's share of memory, as long as it exists: for itself, and for what is parsed from it.
pub(crate) async fn read(
    app: &App,
    peer: &Peer,
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<Bytes, ApiError> {
    let too_large =
        || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request body exceeds its limit of {most} bytes"));
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // The client need not send a body that is refused.
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let length = length.map(|length| length as usize);
    let mut memory = match length.filter(|length| *length > SMALL) {
        Some(length) => Some(answer_memory::reserve(app, peer, length.saturating_mul(2)).await?),
        None => None,
    };
    let mut deadline = Instant::now() + app.options.load().http.read_timeout.get();
    let (mut body, mut first, mut whole, mut is_whole) = (body, Bytes::new(), Vec::new(), false);
    loop {
        let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(ApiError::invalid("body", error)),
            Ok(None) => return Ok(answer_memory::holding(if whole.is_empty() { first } else { whole.into() }, memory)),
            Err(_) => return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        };
        let Ok(piece) = frame.into_data() else { continue };
        if first.len() + whole.len() + piece.len() > most {
            return Err(too_large());
        }
        let size = first.len() + whole.len() + piece.len();
        match &mut memory {
            None if size > SMALL => {
                let bytes = if size > USUAL { most } else { USUAL.min(most) };
                memory = Some(answer_memory::reserve(app, peer, bytes.saturating_mul(2)).await?);
            }
            // It was longer than it said, or said nothing.
            Some(memory) if length.is_none() && size > USUAL && !is_whole => {
                answer_memory::resize(app, memory, most.saturating_mul(2))?;
                is_whole = true;
            }
            _ => {}
        }
        deadline += Duration::from_secs_f64(piece.len() as f64 / SLOWEST);
        // Most bodies are one piece.
        if first.is_empty() && whole.is_empty() {
            first = piece;
        } else {
            if let Some(length) = length.filter(|_| whole.is_empty()) {
                whole.reserve_exact(length);
            }
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&piece);
        }
    }
}

/// Returns the `Content-Type` of a body, without parameters and in lower case; none if there is no such header.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or_default();
    Some(given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}
