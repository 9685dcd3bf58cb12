use super::error::json;
use super::rights::RequestCaller;
use super::{AppState, CallerExtension};
use crate::App;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use dropsonde_engine::health::{FatalReason, Health};
use dropsonde_engine::json;
use dropsonde_engine::plugins::PluginState;
use dropsonde_model::Right;
use serde::Serialize;

#[derive(Serialize)]
struct HealthResponse {
    status: &'static str,
    timestamp: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

/// Answers 200 also if the host is degraded: a plugin that does not run must not get the host restarted. Answers 503 if
/// a restart helps, or if the host is stopping.
pub(crate) async fn health(State(app): AppState, Extension(caller): CallerExtension) -> Response {
    let health = Health::of(&app.engine);
    let reasons = health.reasons();
    let (code, status) = match &health.fatal {
        Some(fatal) => (StatusCode::SERVICE_UNAVAILABLE, word(fatal)),
        None if reasons.is_empty() => (StatusCode::OK, "healthy"),
        None => (StatusCode::OK, "degraded"),
    };
    (code, answer(&app, &caller, status, reasons)).into_response()
}

/// Answers 200 once every plugin that was there at the start has been tried, and until the host stops.
pub(crate) async fn ready(State(app): AppState, Extension(caller): CallerExtension) -> Response {
    let pending = |state| matches!(state, PluginState::Loading | PluginState::Compiling);
    let mut waiting = app.engine.plugins.list();
    waiting.retain(|plugin| plugin.is_of_start && pending(plugin.state()));
    let mut reasons: Vec<_> = waiting.iter().map(|plugin| format!("plugin {} is being loaded", plugin.name)).collect();
    let fatal = Health::of(&app.engine).fatal;
    reasons.extend(fatal.iter().map(FatalReason::to_string));
    let (code, status) = match &fatal {
        Some(fatal) => (StatusCode::SERVICE_UNAVAILABLE, word(fatal)),
        None if reasons.is_empty() => (StatusCode::OK, "ready"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
    };
    (code, answer(&app, &caller, status, reasons)).into_response()
}

/// Returns the answer. Everybody gets the status; only callers that may read get the reasons.
fn answer(app: &App, caller: &RequestCaller, status: &'static str, mut reasons: Vec<String>) -> Response {
    if caller.check(app, Right::Read).is_err() {
        reasons.clear();
    }
    json(&HealthResponse { status, timestamp: json::time(app.engine.clock.now_ms()), reasons })
}

fn word(fatal: &FatalReason) -> &'static str {
    match fatal {
        FatalReason::Draining => "draining",
        FatalReason::Dead(_) => "failed",
    }
}
