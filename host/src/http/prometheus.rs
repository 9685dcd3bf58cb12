use super::App;
use crate::exposition;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// The text format 0.0.4.
pub(crate) async fn metrics(State(core): App) -> Response {
    core.metrics.sessions_active.set(i64::try_from(core.hub.watchers()).unwrap_or(i64::MAX));
    match exposition::text(&core) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
