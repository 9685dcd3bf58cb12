use super::AppState;
use super::blocking::off_thread;
use super::error::json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use dropsonde_engine::host_status::HostStatus;
use serde::Serialize;

#[derive(Serialize)]
struct HostResponse {
    version: &'static str,
    #[serde(flatten)]
    status: HostStatus,
    /// Keys of the configuration file that differ from what is in force, and need a restart.
    restart: Vec<String>,
}

/// Returns the host's own use of resources.
pub(crate) async fn one(State(app): AppState) -> Response {
    let restart = app.reloads.waiting_for_restart();
    match off_thread(move || HostStatus::of(&app.engine)).await {
        Ok(status) => json(&HostResponse { version: env!("CARGO_PKG_VERSION"), status, restart }),
        Err(error) => error.into_response(),
    }
}
