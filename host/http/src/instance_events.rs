use super::blocking::off_thread;
use super::body::{check_json, read};
use super::error::{ApiError, json};
use super::{AppState, CallerExtension};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dropsonde_engine::tracked::{BadLifecycle, Lifecycle, NotTracked};
use serde_json::json;

/// Applies lifecycle events of instances, one or a list, before it answers. If one event is wrong, none is applied.
pub(crate) async fn post(
    State(app): AppState,
    Extension(caller): CallerExtension,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    check_json(&headers)?;
    let most = app.options.load().http.max_body.get();
    let body = read(&app, &caller.peer, &headers, body, most).await?;
    // There may be very many events, and each may discard history.
    let done = off_thread(move || {
        let events = Lifecycle::parse(&body).map_err(ApiError::from)?;
        let count = events.len();
        match app.engine.apply(&events) {
            Ok(()) => Ok(count),
            Err((done, NotTracked::TooMany(full))) => {
                let why = format!("{full}; the first {done} events were applied");
                Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, why))
            }
            Err((_, why)) => Err(why.into()),
        }
    });
    let count = done.await??;
    Ok((StatusCode::ACCEPTED, json(&json!({ "accepted": count }))).into_response())
}

impl From<BadLifecycle> for ApiError {
    fn from(bad: BadLifecycle) -> Self {
        Self::new(StatusCode::BAD_REQUEST, bad.to_string())
    }
}
