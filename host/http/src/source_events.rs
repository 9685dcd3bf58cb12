use super::body::{content_type, read};
use super::error::{ApiError, PathSegment, json};
use super::plugins::{BROKEN_RETRY, LOADING_RETRY, RequestPurpose, absent, unavailable};
use super::{AppState, CallerExtension};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dropsonde_engine::events::{BadEvents, MOST_WAITING, parse_json, parse_lines};
use dropsonde_engine::plugins::{PluginState, PluginStatus};
use dropsonde_engine::quota::QuotaError;
use serde_json::json;

/// Bytes of the largest body that is parsed on the server's own threads.
const SHORT: usize = 256 << 10;

/// Returns why a plugin has no queue: it takes no events, or the host does not know yet whether it does.
fn not_taken(status: &PluginStatus) -> ApiError {
    let name = &status.name;
    status.look(|known| {
        if known.shape.is_some() {
            return ApiError::new(
                StatusCode::CONFLICT,
                format!("plugin {name} takes no events: it is not an observer"),
            );
        }
        if known.state == PluginState::Failed {
            let why = known.last_failure.as_ref().map(|failure| &*failure.reason).unwrap_or_default();
            return unavailable(format!("plugin {name} cannot be loaded: {why}"), BROKEN_RETRY);
        }
        unavailable(format!("plugin {name} is being loaded"), LOADING_RETRY)
    })
}

/// Takes events of an application for an observer: all of them, or none.
pub(crate) async fn post(
    State(app): AppState,
    PathSegment(name): PathSegment,
    Extension(caller): CallerExtension,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Some(status) = app.engine.plugins.get(&name) else {
        return Err(absent(&app, name, RequestPurpose::Events).await);
    };
    let queue = status.events().ok_or_else(|| not_taken(&status))?;
    let parse = match content_type(&headers).as_deref() {
        None | Some("application/json" | "application/x-www-form-urlencoded") => parse_json,
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => parse_lines,
        Some(_) => {
            let why = "unsupported Content-Type; send events as application/json or application/x-ndjson";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
    };
    let most = app.options.load().http.max_body.get();
    let body = read(&app, &caller.peer, &headers, body, most).await?;
    let now_ms = app.engine.clock.now_ms();
    // Large bodies are parsed off the server's threads.
    let parsed = if body.len() > SHORT {
        let parsed = tokio::task::spawn_blocking(move || parse(&body, now_ms)).await;
        parsed.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "cannot parse the events; see the log"))?
    } else {
        parse(&body, now_ms)
    };
    let events = parsed.map_err(|bad| {
        let is_too_large = matches!(bad, BadEvents::TooMany(_));
        let status = if is_too_large { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        ApiError::new(status, bad.to_string())
    })?;
    let count = events.len();
    // The plugin may have been removed while the body arrived.
    if app.engine.plugins.get(&name).is_none_or(|now| !now.has_queue(&queue)) {
        return Err(ApiError::not_found("the plugin was removed during the request"));
    }
    match queue.offer(caller.peer.id(), events) {
        Ok(()) => {
            app.engine.metrics.core.received(&status.name, "event", count as u64);
            Ok((StatusCode::ACCEPTED, json(&json!({ "accepted": count }))).into_response())
        }
        Err(full) => Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, no_room(&status.name, full)).retry_after(1)),
    }
}

fn no_room(plugin: &str, full: QuotaError) -> String {
    match full {
        QuotaError::All(_) => {
            format!("limit of {MOST_WAITING} bytes of events that wait for plugin {plugin} reached; try again later")
        }
        QuotaError::OfPeer(most) => {
            format!(
                "limit of {most} bytes of events of this client that wait for plugin {plugin} reached; try again later"
            )
        }
    }
}
