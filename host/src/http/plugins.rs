use super::App;
use super::error::{ApiError, Segment, json};
use crate::admin::Refusal;
use crate::core::Core;
use crate::plugins::{Order, PluginPage, PluginState};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// All plugins by name.
pub(crate) async fn list(State(core): App) -> Response {
    let pages: Vec<_> = core.plugins.list().iter().map(|status| PluginPage::of(status)).collect();
    json(&pages)
}

pub(crate) async fn one(State(core): App, Segment(name): Segment) -> Result<Response, ApiError> {
    let status = core.plugins.get(&name).ok_or_else(|| ApiError::not_found("no plugin has this name"))?;
    Ok(json(&PluginPage::of(&status)))
}

/// What a plugin in quarantine, or waiting after a failure, is to do at once.
pub(crate) async fn release(app: App, name: Segment, headers: HeaderMap) -> Result<Response, ApiError> {
    let waits = |state| matches!(state, PluginState::Quarantined | PluginState::Backoff);
    order(&app.0, &name.0, &headers, Order::Release, waits, "is not in quarantine, and does not wait")
}

pub(crate) async fn quarantine(app: App, name: Segment, headers: HeaderMap) -> Result<Response, ApiError> {
    let runs = |state| !matches!(state, PluginState::Quarantined | PluginState::Failed);
    order(&app.0, &name.0, &headers, Order::Quarantine, runs, "does not run")
}

fn order(
    core: &Core,
    name: &str,
    headers: &HeaderMap,
    order: Order,
    fits: impl Fn(PluginState) -> bool,
    otherwise: &str,
) -> Result<Response, ApiError> {
    check_admin(core, headers)?;
    let status = core.plugins.get(name).ok_or_else(|| ApiError::not_found("no plugin has this name"))?;
    if !fits(status.state()) {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("{} {otherwise}", status.name)));
    }
    tracing::info!(plugin = &*status.name, "an operator says: {}", order.as_str());
    status.order(order);
    Ok((StatusCode::ACCEPTED, json(&PluginPage::of(&status))).into_response())
}

fn check_admin(core: &Core, headers: &HeaderMap) -> Result<(), ApiError> {
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    core.admin.check(authorization).map_err(|refusal| match refusal {
        Refusal::Never => ApiError::new(StatusCode::FORBIDDEN, "with --memory-only there is no token to allow this"),
        Refusal::Missing => ApiError::unauthorized("this needs the admin token: Authorization: Bearer TOKEN"),
        Refusal::Wrong => ApiError::unauthorized("this is not the admin token"),
    })
}
