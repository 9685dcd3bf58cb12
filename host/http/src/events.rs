use super::body::{content_type, read};
use super::error::{ApiError, Segment, json};
use super::plugins::{Asks, BROKEN_RETRY, LOADING_RETRY, absent, not_up};
use super::{Asking, Shared};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dropsonde_engine::events::{MOST_AT_ONCE, MOST_WAITING, parse_json, parse_lines};
use dropsonde_engine::places::Full;
use dropsonde_engine::plugins::{PluginState, Status};
use serde_json::json;

/// Bytes that are parsed at once.
const SHORT: usize = 256 << 10;

/// Why a plugin has no queue: it takes no events, or nobody knows yet whether it does.
fn not_taken(status: &Status) -> ApiError {
    let name = &status.name;
    status.look(|known| {
        if known.shape.is_some() {
            return ApiError::new(StatusCode::CONFLICT, format!("{name} takes no events: it is no observer"));
        }
        if known.state == PluginState::Failed {
            let why = known.last_failure.as_ref().map(|failure| &*failure.reason).unwrap_or_default();
            return not_up(format!("plugin {name} cannot be loaded: {why}"), BROKEN_RETRY);
        }
        not_up(format!("plugin {name} is being loaded"), LOADING_RETRY)
    })
}

/// What an application did, for an observer: all of it is taken, or nothing.
pub(crate) async fn post(
    State(app): Shared,
    Segment(name): Segment,
    Extension(caller): Asking,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Some(status) = app.engine.plugins.get(&name) else { return Err(absent(&app, name, Asks::Events).await) };
    let queue = status.events().ok_or_else(|| not_taken(&status))?;
    let parse = match content_type(&headers).as_deref() {
        None | Some("application/json" | "application/x-www-form-urlencoded") => parse_json,
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => parse_lines,
        Some(_) => {
            let why = "events are sent as application/json or application/x-ndjson";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
    };
    let most = app.options.load().http.max_body.get();
    let body = read(&app, &caller.peer, &headers, body, most).await?;
    let now_ms = app.engine.clock.now_ms();
    // Much is parsed off the server's threads.
    let parsed = if body.len() > SHORT {
        let parsed = tokio::task::spawn_blocking(move || parse(&body, now_ms)).await;
        parsed.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the events could not be read"))?
    } else {
        parse(&body, now_ms)
    };
    let events = parsed.map_err(|bad| ApiError::new(StatusCode::BAD_REQUEST, bad.to_string()))?;
    let count = events.len();
    if count > MOST_AT_ONCE {
        let why = format!("at most {MOST_AT_ONCE} events are taken at a time, not {count}");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    // It may have been removed while the body came.
    if app.engine.plugins.get(&name).is_none_or(|now| !now.has_queue(&queue)) {
        return Err(ApiError::not_found("the plugin was removed"));
    }
    match queue.offer(caller.peer.id(), events) {
        Ok(()) => {
            app.engine.metrics.core.received(&status.name, "event", count as u64);
            Ok((StatusCode::ACCEPTED, json(&json!({ "accepted": count }))).into_response())
        }
        Err(full) => Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, no_room(&status.name, full)).retry_after(1)),
    }
}

fn no_room(plugin: &str, full: Full) -> String {
    match full {
        Full::All(_) => {
            format!("{MOST_WAITING} bytes of events wait for {plugin}, which is the most there may be; try again later")
        }
        Full::OfPeer(most) => {
            format!(
                "the {most} bytes of events that this client can have waiting for {plugin} are taken; try again later"
            )
        }
    }
}
