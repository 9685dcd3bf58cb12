use super::App;
use super::body::{content_type, read};
use super::error::{ApiError, Segment, json};
use super::rights::check;
use crate::events::{Full, MOST_WAITING, parse_json, parse_lines};
use crate::tokens::Right;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Bytes of one request.
const LARGEST: usize = 8 << 20;

/// What an application did, for an observer: all of it is taken, or nothing.
pub(crate) async fn post(
    State(core): App,
    Segment(name): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    check(&core, Right::Write, &headers)?;
    let status = core.plugins.get(&name).ok_or_else(|| ApiError::not_found("no plugin has this name"))?;
    let conflict = || ApiError::new(StatusCode::CONFLICT, format!("{name} takes no events: it is no observer"));
    let queue = status.events().ok_or_else(conflict)?;
    let parse = match content_type(&headers).as_deref() {
        None | Some("application/json" | "application/x-www-form-urlencoded") => parse_json,
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => parse_lines,
        Some(_) => {
            let why = "events are sent as application/json or application/x-ndjson";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
    };
    let body = read(body, LARGEST).await?;
    let events =
        parse(&body, core.clock.now_ms()).map_err(|bad| ApiError::new(StatusCode::BAD_REQUEST, bad.to_string()))?;
    let count = events.len();
    if count > MOST_WAITING {
        let why = format!("at most {MOST_WAITING} events are taken at a time, not {count}");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    let received = core.metrics.messages_received.with_label_values(&[&*status.name, "event"]);
    match queue.offer(events) {
        Ok(()) => {
            received.inc_by(count as u64);
            Ok((StatusCode::ACCEPTED, json(&json!({ "accepted": count }))).into_response())
        }
        Err(full @ Full(_)) => {
            let mut response = ApiError::new(StatusCode::TOO_MANY_REQUESTS, full.to_string()).into_response();
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            Ok(response)
        }
    }
}
